"""``penstock stop`` and ``penstock start`` against a supervisor's state that the test writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from penstock_cli import main as cli
from penstock_cli import services
from penstock_cli.options import ExitCode
from penstock_cli.services import nobody_in
from penstock_schemas.errors import Refused
from penstock_stack.processes import ProcessIdentity
from penstock_stack.state import ComponentState, StackState, StateFile, held


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0), capsys.readouterr().err


def stack(data_dir: Path, state: str, *, alive: bool = True) -> None:
    supervisor = ProcessIdentity.of(os.getpid()) if alive else None
    components = {"ingest": ComponentState(state, error="it says why")}
    StateFile(data_dir / "run", StackState("ready", supervisor, components=components))


@pytest.mark.parametrize(
    ("verb", "state", "left"), [("stop", "stopped", ["ingest"]), ("start", "ready", [])]
)
def test_the_supervisor_is_told_and_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, state: str, left: list[str]
) -> None:
    stack(tmp_path, state)
    code, err = run(capsys, verb, "ingest", "--data-dir", str(tmp_path))
    assert (code, held(tmp_path / "run")) == (ExitCode.OK, left)
    assert f"ingest is {state}" in err


def test_what_does_not_become_so_in_time_is_told_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "READY_WITHIN_S", 0.0)
    stack(tmp_path, "restarting")
    code, err = run(capsys, "start", "ingest", "--data-dir", str(tmp_path))
    assert code == ExitCode.FAILED
    assert "ingest is restarting, not ready" in err
    assert "it says why" in err


def test_only_services_may_be_stopped_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack(tmp_path, "ready")
    code, err = run(capsys, "stop", "kafka", "--data-dir", str(tmp_path))
    assert code == ExitCode.USAGE
    assert "retrain-trigger" in err
    assert held(tmp_path / "run") == []


def test_without_a_stack_nothing_is_noted_for_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack(tmp_path, "ready", alive=False)
    code, err = run(capsys, "stop", "ingest", "--data-dir", str(tmp_path))
    assert code == ExitCode.UNREACHABLE
    assert "penstock up" in err
    assert held(tmp_path / "run") == []


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
    monkeypatch.setattr(services, "_EMPTY_POLL_S", 0.0)
    return calls


def away(looks: int, group: str = GROUP, *, stop: bool) -> Any:
    return nobody_in(Offsets(looks), group, HERE, stop_service=stop)  # type: ignore[arg-type]


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
    monkeypatch.setattr(services, "EMPTY_WITHIN_S", 0.0)
    with pytest.raises(Refused, match="has 2 members"):
        with away(1_000, stop=True):
            pytest.fail("somebody works in it")
    assert told == ["stop ingest", "start ingest"]


def test_somebody_else_s_group_is_not_ours_to_stop(told: list[str]) -> None:
    with pytest.raises(Refused, match="no service"):
        with away(0, "billing", stop=True):
            pytest.fail("nothing was stopped")
    assert told == []
