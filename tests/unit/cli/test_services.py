"""``penstock stop`` and ``penstock start`` against a supervisor's state that the test writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from penstock_cli import main as cli
from penstock_cli import services
from penstock_cli.options import ExitCode
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
