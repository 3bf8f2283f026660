from __future__ import annotations

from typing import Any

import pytest
from harness.replay import PlainRecord
from penstock_replay import session as session_module
from penstock_replay.audit_log import Operation
from penstock_replay.copier import Target
from penstock_replay.pacing import Pacer
from penstock_replay.retrying import ATTEMPTS, until_done
from penstock_replay.session import Session, run_audited
from penstock_schemas.errors import BrokerUnavailable, ConfigError, FencedError, PenstockError
from penstock_schemas.records import AuditEvent
from penstock_streaming.errors import AbortRequired, OutcomeUnknown

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

    def commit(self, *notes: AuditEvent) -> None:
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
