"""What to do next about a request's job. Pure: what the topic and Ray say in, one action out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock_schemas.retrain_requests import Request

TERMINAL: Final = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
FAILED_FOR_GOOD: Final = 1
"""Exit code of a job that says that trying again is of no use."""
REASON_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Ray tells of it.

    Parameters
    ----------
    status
        PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
    submission
        Which submission of the request it is, from 1.
    exit_code
        Of the entry point, once it has ended by itself.
    message
        Ray's message, with the end of the job's output if it failed.
    """

    status: str
    submission: int = 1
    exit_code: int | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Tell whether it has ended."""
        return self.status in TERMINAL

    @property
    def last_words(self) -> str:
        """The last line that it or Ray said, shortened."""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return lines[-1][:REASON_CHARS] if lines else f"the job is {self.status}"


class Action(Enum):
    """What follows for a request in flight."""

    WAIT = "wait"
    SUBMIT = "submit"
    """Submit the submission that is ordered; delete what an earlier one left."""
    ORDER = "order"
    """Order one more submission."""
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Next:
    """An action and, of an order or a failure, why."""

    action: Action
    reason: str = ""


def next_action(request: Request, job: Job | None, was_seen: bool, max_submissions: int) -> Next:
    """Return what to do about a request in flight.

    Parameters
    ----------
    job
        The job under the request's id, None if Ray knows none.
    was_seen
        Whether this process has seen the ordered submission on Ray; only then is a missing job a
        lost one and not one that is still to be submitted.

    Examples
    --------
    >>> next_action(Request("r1"), None, False, 3).action
    <Action.SUBMIT: 'submit'>
    >>> next_action(Request("r1"), Job("FAILED", 1, 1, "no labels"), True, 3)
    Next(action=<Action.FAIL: 'fail'>, reason='no labels')
    """
    ordered = max(1, request.submissions)
    if job is None:
        if not was_seen:
            return Next(Action.SUBMIT)
        return _again(ordered, max_submissions, "Ray has lost the job")
    if not job.is_over:
        return Next(Action.WAIT)
    if job.submission < ordered:
        return Next(Action.SUBMIT)
    if job.exit_code == FAILED_FOR_GOOD:
        return Next(Action.FAIL, job.last_words)
    return _again(ordered, max_submissions, job.last_words)


def _again(ordered: int, max_submissions: int, reason: str) -> Next:
    if ordered >= max_submissions:
        return Next(Action.FAIL, f"{reason}, after {ordered} submissions")
    return Next(Action.ORDER, reason)
