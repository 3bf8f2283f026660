from __future__ import annotations

from dataclasses import replace

import pytest
from penstock_retrain_trigger.resubmission import REASON_CHARS, Action, Job, next_action
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import Ledger, Request


def ordered(submissions: int) -> Request:
    """Return a request of whose job so many submissions were ordered."""
    asked = RetrainEvent.request("r", "p", 0, "drift")
    accepted = asked.followed_by("accepted", 1)
    ledger = Ledger()
    again = asked.followed_by("resubmitted", 2)
    orders = [replace(again, event_id=f"r.resubmitted.{n}") for n in range(1, submissions)]
    for offset, event in enumerate([asked, accepted, *orders]):
        ledger.fold(event, offset)
    return ledger.requests["r"]


@pytest.mark.parametrize(
    ("submissions", "job", "was_seen", "action"),
    [
        (1, None, False, Action.SUBMIT),
        (1, None, True, Action.ORDER),
        (3, None, False, Action.SUBMIT),
        (3, None, True, Action.FAIL),
        (1, Job("PENDING"), False, Action.WAIT),
        (1, Job("RUNNING"), True, Action.WAIT),
        (2, Job("RUNNING", 1), False, Action.WAIT),
        (2, Job("FAILED", 1, 3), False, Action.SUBMIT),
        (2, Job("FAILED", 1, 1), False, Action.SUBMIT),
        (2, Job("FAILED", 2, 3), True, Action.ORDER),
        (1, Job("STOPPED"), True, Action.ORDER),
        (1, Job("SUCCEEDED", 1, 0), True, Action.ORDER),
        (3, Job("FAILED", 3, 137), True, Action.FAIL),
        (1, Job("FAILED", 1, 1), True, Action.FAIL),
    ],
)
def test_action(submissions: int, job: Job | None, was_seen: bool, action: Action) -> None:
    assert next_action(ordered(submissions), job, was_seen, 3).action is action


def test_reason_is_the_last_line_that_the_job_said() -> None:
    job = Job("FAILED", 1, 1, "Job entrypoint failed, logs:\nloading\ntoo few labels: 12\n\n")
    assert next_action(ordered(1), job, True, 3).reason == "too few labels: 12"
    assert len(Job("FAILED", message="x" * 1_000).last_words) == REASON_CHARS
    assert Job("STOPPED").last_words == "the job is STOPPED"


def test_reason_tells_how_often_it_was_tried() -> None:
    job = Job("FAILED", 3, 3, "MLflow is away")
    assert next_action(ordered(3), job, True, 3).reason == "MLflow is away, after 3 submissions"
