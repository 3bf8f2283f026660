"""Requests to retrain and what became of them, from the events alone."""

from __future__ import annotations

import pytest
from penstock_cli.retrain import parse_time, row_of, to_cancel
from penstock_schemas.errors import ConfigError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import ENDS_OR_SUPPRESSED, Request
from penstock_schemas.retrain_requests import requests_of as all_requests

ASKED = RetrainEvent.request("r1", "fraud", 1_750_000_000_000, "drift", reason="error doubled")
STARTED = ASKED.followed_by("started", 1_750_000_002_000, job_id="r1", run_id="run")
FINISHED = ASKED.followed_by(
    "finished",
    1_750_000_003_000,
    verdict="promoted",
    model_version="2",
    metrics={"canary_auc": 0.95},
)
OTHER = RetrainEvent.request("r2", "fraud", 1_750_000_001_000, "cli", actor="ada")


def requests_of(events: list[RetrainEvent]) -> list[Request]:
    return all_requests(events, ENDS_OR_SUPPRESSED)


def test_events_of_interleaved_requests_are_told_apart() -> None:
    first, second = requests_of([ASKED, OTHER, STARTED, FINISHED])
    assert [e.state for e in first.events] == ["requested", "started", "finished"]
    assert (second.request_id, second.last.state) == ("r2", "requested")


def test_a_repeated_event_counts_once() -> None:
    (found,) = requests_of([ASKED, STARTED, STARTED, ASKED])
    assert len(found.events) == 2


def test_what_came_on_the_way_is_kept_after_the_end() -> None:
    (found,) = requests_of([ASKED, STARTED, FINISHED])
    row = row_of(found)
    assert (row["state"], row["verdict"], row["model_version"]) == ("finished", "promoted", "2")
    assert (row["run_id"], row["metrics"]) == ("run", {"canary_auc": 0.95})
    assert row["requested_because"] == "error doubled"
    assert [step["state"] for step in row["history"]] == ["requested", "started", "finished"]


def test_what_comes_after_the_end_does_not_reopen_a_request() -> None:
    cancelled = ASKED.followed_by("cancelled", 1_750_000_004_000)
    (found,) = requests_of([ASKED, cancelled, STARTED])
    assert not found.is_open
    assert found.last.state == "cancelled"


def test_the_one_request_in_flight_is_cancelled_without_a_name() -> None:
    assert to_cancel(requests_of([ASKED, FINISHED, OTHER]), None).request_id == "r2"


@pytest.mark.parametrize(
    ("events", "request_id", "why"),
    [
        ([ASKED, FINISHED], None, "nothing to cancel"),
        ([ASKED, OTHER], None, "r1, r2"),
        ([ASKED], "r9", "no request 'r9'"),
        ([ASKED, FINISHED], "r1", "has ended: finished"),
    ],
)
def test_what_cannot_be_cancelled_says_why(
    events: list[RetrainEvent], request_id: str | None, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        to_cancel(requests_of(events), request_id)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2025-06-15T15:06:40Z", 1_750_000_000_000),
        ("2025-06-15 15:06:40", 1_750_000_000_000),
        ("2025-06-15T17:06:40+02:00", 1_750_000_000_000),
        ("2025-06-15", 1_749_945_600_000),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(text: str, at_ms: int) -> None:
    assert parse_time(text) == at_ms
