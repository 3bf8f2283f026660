"""Having a service away while its group is moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from penstock_cli import group_service, services
from penstock_cli.group_service import nobody_in
from penstock_replay.refusal import Refused

GROUP = "penstock-ingest-fraud"
HERE = Path("here")


class Offsets:
    """A group whose members leave after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def refuse_members(self, group: str) -> None:
        self.looks -= 1
        if self.looks >= 0:
            raise Refused(f"group {group} has 2 members")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(services, "stop", lambda name, _: calls.append(f"stop {name}"))
    monkeypatch.setattr(services, "start", lambda name, _: calls.append(f"start {name}"))
    monkeypatch.setattr(group_service, "_POLL_S", 0.0)
    return calls


def away(looks: int, group: str = GROUP, *, stop: bool) -> Any:
    return nobody_in(Offsets(looks), group, HERE, stop=stop)  # type: ignore[arg-type]


def test_a_group_with_members_is_refused_with_the_next_step(told: list[str]) -> None:
    with pytest.raises(Refused, match=r"penstock stop ingest.*penstock start ingest"):
        with away(1, stop=False):
            pytest.fail("somebody works in it")
    assert told == []


def test_an_empty_group_needs_nobody_stopped(told: list[str]) -> None:
    with away(0, stop=False):
        told.append("seek")
    assert told == ["seek"]


def test_the_service_is_away_for_as_long_as_it_takes(told: list[str]) -> None:
    with away(3, stop=True):
        told.append("seek")
    assert told == ["stop ingest", "seek", "start ingest"]


def test_the_service_comes_back_after_a_failure(told: list[str]) -> None:
    with pytest.raises(ValueError, match="no"):
        with away(0, stop=True):
            raise ValueError("no")
    assert told == ["stop ingest", "start ingest"]


def test_members_that_do_not_leave_are_not_overruled(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_service, "EMPTY_WITHIN_S", 0.0)
    with pytest.raises(Refused, match="has 2 members"):
        with away(1_000, stop=True):
            pytest.fail("somebody works in it")
    assert told == ["stop ingest", "start ingest"]


def test_somebody_else_s_group_is_not_ours_to_stop(told: list[str]) -> None:
    with pytest.raises(Refused, match="no service"):
        with away(0, "billing", stop=True):
            pytest.fail("nothing was stopped")
    assert told == []
