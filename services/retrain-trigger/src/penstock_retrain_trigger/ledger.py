"""What became of each retrain request: the fold of a pipeline's retrain events. No I/O, no clock.

The state is a function of the set of (event, offset) alone: events may come in any order and any
number of times. Where two records contradict each other, the one that lies first in the topic
counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from penstock_schemas.records import RetrainEvent

REQUESTED: Final = "requested"
ACCEPTED: Final = "accepted"
SUPPRESSED: Final = "suppressed"
RESUBMITTED: Final = "resubmitted"
STARTED: Final = "started"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
DECISIONS: Final = frozenset({ACCEPTED, SUPPRESSED})
ENDS: Final = frozenset({FINISHED, FAILED, CANCELLED})
BY_HAND: Final = frozenset({"cli", "rest"})
"""Sources of requests made by a person."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event and where it lies."""

    offset: int
    event: RetrainEvent


@dataclass(slots=True)
class Request:
    """One request with all that followed.

    Parameters
    ----------
    steps
        By event id; of a repeated one, the first.
    """

    request_id: str
    steps: dict[str, Step] = field(default_factory=dict)

    def first(self, states: frozenset[str]) -> Step | None:
        """Return the step in one of these states that lies first in the topic."""
        found = [step for step in self.steps.values() if step.event.state in states]
        return min(found, key=lambda step: step.offset, default=None)

    @property
    def requested(self) -> Step | None:
        """The request itself; None if only what followed has been seen."""
        return self.first(frozenset({REQUESTED}))

    @property
    def decision(self) -> Step | None:
        """The decision about it."""
        return self.first(DECISIONS)

    @property
    def end(self) -> Step | None:
        """Its end; None while it is open, and of a suppressed one."""
        return self.first(ENDS)

    @property
    def is_accepted(self) -> bool:
        """Tell whether it was accepted, whatever became of it."""
        decision = self.decision
        return decision is not None and decision.event.state == ACCEPTED

    @property
    def is_started(self) -> bool:
        """Tell whether its job has said that it works."""
        return self.first(frozenset({STARTED})) is not None

    @property
    def is_undecided(self) -> bool:
        """Tell whether it still needs a decision; one that was cancelled before needs none."""
        return self.requested is not None and self.decision is None and self.end is None

    @property
    def is_in_flight(self) -> bool:
        """Tell whether it is accepted and has not ended."""
        return self.is_accepted and self.end is None

    @property
    def submissions(self) -> int:
        """How many submissions of its job have been ordered: by the decision, and each again."""
        again = sum(step.event.state == RESUBMITTED for step in self.steps.values())
        return again + self.is_accepted

    @property
    def state(self) -> str:
        """The state as people read it."""
        decision, end = self.decision, self.end
        if decision is not None and decision.event.state == SUPPRESSED:
            return SUPPRESSED
        if end is not None:
            return end.event.state
        if self.is_started:
            return STARTED
        return ACCEPTED if decision is not None else REQUESTED


@dataclass(slots=True)
class Ledger:
    """All requests of one pipeline."""

    requests: dict[str, Request] = field(default_factory=dict)
    _undecided: set[str] = field(default_factory=set, repr=False)
    _accepted: set[str] = field(default_factory=set, repr=False)

    def fold(self, event: RetrainEvent, offset: int) -> bool:
        """Take in an event.

        Returns
        -------
        Whether its id is new.
        """
        request = self.requests.setdefault(event.request_id, Request(event.request_id))
        known = request.steps.get(event.event_id)
        if known is None or offset < known.offset:
            request.steps[event.event_id] = Step(offset, event)
            _keep(self._undecided, event.request_id, request.is_undecided)
            _keep(self._accepted, event.request_id, request.is_accepted)
        return known is None

    def holds(self, event: RetrainEvent) -> bool:
        """Tell whether the event is in the topic."""
        request = self.requests.get(event.request_id)
        return request is not None and event.event_id in request.steps

    def undecided(self) -> list[Request]:
        """Return the requests that need a decision, in the order of the topic."""
        found = [self.requests[name] for name in self._undecided]
        return sorted(found, key=lambda request: _offset(request.requested))

    def accepted(self) -> list[Request]:
        """Return the accepted requests, ended ones too, in the order of acceptance."""
        found = [self.requests[name] for name in self._accepted]
        return sorted(found, key=lambda request: _offset(request.decision))

    def in_flight(self) -> list[Request]:
        """Return the accepted requests that have not ended; by the rules at most one."""
        return [request for request in self.accepted() if request.is_in_flight]

    def events(self) -> Iterator[RetrainEvent]:
        """Yield every event once."""
        for request in self.requests.values():
            for step in request.steps.values():
                yield step.event


def _keep(names: set[str], name: str, is_one: bool) -> None:
    if is_one:
        names.add(name)
    else:
        names.discard(name)


def _offset(step: Step | None) -> int:
    return -1 if step is None else step.offset
