"""TODO."""

from __future__ import annotations

from typing import Any

import pytest
from harness.replay import PlainRecord
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay import session as session_module
from penstock_replay.session import ATTEMPTS, Pacer, Session, Target, run_audited, until_done
from penstock_schemas.errors import BrokerUnavailable, ConfigError, FencedError, PenstockError
from penstock_schemas.records import AuditEvent
from penstock_streaming.audit import Operation
from penstock_streaming.errors import AbortRequired, OutcomeUnknown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pacer: Pacer, clock: Clock, records: int, work_s: float = 0.0) -> float:
    """Return the seconds that records take; each needs some work besides."""
    begun = clock.now
    for _ in range(records):
        clock.now += pacer.wait_s()
        pacer.count()
        clock.now += work_s
    return clock.now - begun


@given(st.floats(0.5, 5000), st.integers(20, 400), st.floats(0, 0.9))
def test_the_rate_is_kept_as_long_as_the_work_allows(
    per_s: float, records: int, share: float
) -> None:
    clock = Clock()
    clock.now += 17.0  # time before the first record is not made up for
    elapsed_s = run(Pacer(per_s, clock), clock, records, work_s=share / per_s)
    assert elapsed_s == pytest.approx(records / per_s, rel=0.1)


def test_without_a_rate_nothing_waits() -> None:
    clock = Clock()
    assert run(Pacer(None, clock), clock, 1000) == 0.0


def test_an_outage_is_not_made_up_for_in_one_burst() -> None:
    clock = Clock()
    pacer = Pacer(10.0, clock)
    run(pacer, clock, 10)
    clock.now += 60.0
    assert run(pacer, clock, 100) > 8.5


DOING = Operation("op-1", "ann", "replay", "t", {"from": "start"})
TARGET = Target("t", 0, [])


class Copier:
    """Remembers what would be committed."""

    def __init__(self) -> None:
        self.rows = 0
        self.age_s = 0.0
        self.committed: list[tuple[int, tuple[AuditEvent, ...]]] = []
        self.closed = 0

    def open(self) -> None:
        self.rows = 0

    def send(self, record: object, target: Target) -> None:
        self.rows += 1

    def commit_with(self, *notes: AuditEvent) -> None:
        self.committed.append((self.rows, notes))
        self.rows = 0

    def close(self) -> None:
        self.closed += 1


class Audit:
    """Keeps what is written outside of transactions."""

    def __init__(self) -> None:
        self.written: list[AuditEvent] = []

    def write(self, event: AuditEvent) -> None:
        self.written.append(event)


def a_session() -> tuple[Session, Copier, list[dict[str, int]]]:
    copier: Any = Copier()
    told: list[dict[str, int]] = []
    return Session(copier, DOING, Pacer(None), lambda c: told.append(dict(c))), copier, told


def test_each_commit_notes_exactly_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "COMMIT_ROWS", 3)
    session, copier, told = a_session()
    session.open({})
    session.begin({"t/0@x": "0-7"})
    for offset in range(8):
        if offset != 4:
            session.copy(PlainRecord(("t", 0, offset)), TARGET)
        session.note("t/0@x", offset, "passed" if offset == 4 else "copied")
    session.finish()
    rows, notes = zip(*copier.committed, strict=True)
    assert rows == (0, 3, 3, 1)
    assert [[n.phase for n in many] for many in notes] == [
        ["begin"],
        ["progress"],
        ["progress"],
        ["progress", "end"],
    ]
    assert [n.ranges for n in notes[1]] == [{"t/0@x": "0-2"}]
    assert notes[2][0].ranges == {"t/0@x": "3-6"}
    assert notes[2][0].counts == {"copied": 3, "passed": 1}
    assert notes[3][1].counts == {"copied": 7, "passed": 1}
    assert told[-1] == {"copied": 7, "passed": 1}


def test_what_was_not_committed_is_forgotten_when_it_opens_again() -> None:
    session, copier, _ = a_session()
    session.open({})
    session.copy(PlainRecord(), TARGET)
    session.note("t/0@x", 0, "copied")
    session.open({"copied": 5})
    session.finish()
    ((_, notes),) = copier.committed
    assert [n.phase for n in notes] == ["end"]
    assert notes[0].counts == {"copied": 5}


def failing(*errors: Exception) -> Any:
    left = list(errors)

    def attempt() -> None:
        if left:
            raise left.pop(0)

    return attempt


def test_passing_failures_are_tried_again_and_not_for_ever() -> None:
    away = BrokerUnavailable("away")
    until_done(failing(away, OutcomeUnknown("?"), AbortRequired("no")), lambda: 0, 0.0)
    with pytest.raises(BrokerUnavailable, match="the same command goes on"):
        until_done(failing(*[away] * ATTEMPTS), lambda: 0, 0.0)
    commits = iter(range(1000))  # every attempt brings it on
    until_done(failing(*[away] * 5 * ATTEMPTS), lambda: next(commits), 0.0)


@pytest.mark.parametrize("error", [ConfigError("wrong"), ValueError("unknown")])
def test_a_failure_for_good_ends_at_once_and_is_noted(error: Exception) -> None:
    session, copier, _ = a_session()
    audit: Any = Audit()
    with pytest.raises(type(error)):
        run_audited(session, failing(error, error), audit, DOING)
    (event,) = audit.written
    assert (event.phase, event.outcome) == ("end", "failed")
    assert str(error) in event.reason
    assert event.arguments == {"from": "start"}
    assert copier.closed


def test_who_is_fenced_says_nothing_in_the_name_of_the_other() -> None:
    session, copier, _ = a_session()
    audit: Any = Audit()
    with pytest.raises(FencedError):
        run_audited(session, failing(FencedError("taken")), audit, DOING)
    assert audit.written == []
    assert copier.closed


def test_an_audit_that_is_away_does_not_hide_the_failure() -> None:
    session, _, _ = a_session()

    class Away:
        def write(self, event: AuditEvent) -> None:
            raise PenstockError("away")

    audit: Any = Away()
    with pytest.raises(ConfigError, match="wrong"):
        run_audited(session, failing(ConfigError("wrong")), audit, DOING)
