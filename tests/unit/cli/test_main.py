"""The command line: help, global options, exit codes, errors without a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from penstock_cli import main as cli
from penstock_cli.main import reach_loopback_directly
from penstock_cli.options import ExitCode, stack_config
from penstock_schemas.errors import ConfigError, RegistryUnavailable
from penstock_stack.state import StackState, StateFile

HEAVY = ("ray", "mlflow", "feast", "confluent_kafka", "pyarrow", "pandas", "numpy", "sklearn")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with one pipeline folder."""
    folder = tmp_path / "pipelines" / "fraud"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("pipeline: fraud\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_the_verbs_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom penstock_cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(','.join(m for m in {HEAVY!r} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"--help imports {done.stderr}"
    for verb in (
        "up",
        "down",
        "status",
        "doctor",
        "demo",
        "simulate",
        "topics",
        "model",
        "drift",
        "retrain",
    ):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["status", "-o", "json"], ["-o", "json", "status"]),
        (["topics", "plan", "--profile", "prod"], ["--profile", "prod", "topics", "plan"]),
        (["--profile=prod", "up"], ["--profile=prod", "up"]),
        (["status", "-o"], ["-o", "status"]),
        (["x", "--", "-o", "json"], ["x", "--", "-o", "json"]),
    ],
)
def test_global_options_may_follow_the_verb(given: list[str], expected: list[str]) -> None:
    assert cli.hoist_global_options(given) == expected


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "status", "--nope")[0] == ExitCode.USAGE


def test_an_unknown_pipeline_is_a_usage_error_that_names_the_folder(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "up", "--pipeline", "churn")
    assert code == ExitCode.USAGE
    assert "pipelines/churn/pipeline.yaml" in " ".join(err.replace("│", " ").split())


def test_what_does_not_answer_is_another_exit_code_than_what_failed() -> None:
    assert cli.exit_code(RegistryUnavailable("away")) == ExitCode.UNREACHABLE
    assert cli.exit_code(ConfigError("wrong")) == ExitCode.FAILED


def test_an_unexpected_error_is_one_line_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    def broken(_: Path) -> StackState:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("penstock_cli.status.recorded_state", broken)
    code, out, err = run(capsys, "status")
    assert (code, out) == (ExitCode.FAILED, "")
    assert err.count("\n") == 1
    assert "PENSTOCK_DEBUG=1" in err


def test_up_refuses_the_production_profile(
    capsys: pytest.CaptureFixture[str], workspace: Path
) -> None:
    code, _, err = run(capsys, "up", "--profile", "prod")
    assert code == ExitCode.REFUSED
    assert "--profile local" in err


def test_a_mistyped_variable_stops_up_and_names_the_right_one(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_KAFAK_PORT", "9999")
    code, _, err = run(capsys, "up")
    assert code == ExitCode.FAILED
    assert "PENSTOCK_KAFKA_PORT" in err


def test_a_taken_port_is_a_clear_error_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        offset = str(port - 9092)
        code, _, err = run(capsys, "up", "--port-offset", offset, "--data-dir", "state")
    assert code == ExitCode.FAILED
    assert f"port {port} (PENSTOCK_KAFKA_PORT) is taken" in err


def test_down_without_a_stack_is_no_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "down", "--data-dir", str(tmp_path))
    assert code == ExitCode.OK
    assert "nothing runs" in err


def test_status_without_a_stack_is_unreachable_and_still_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = run(capsys, "status", "-o", "json", "--data-dir", str(tmp_path))
    assert code == ExitCode.UNREACHABLE
    assert json.loads(out) == {"phase": "stopped", "components": [], "pipelines": []}
    assert "penstock up" in err


def test_status_has_the_shape_of_the_contract(
    capsys: pytest.CaptureFixture[str], workspace: Path
) -> None:
    config = stack_config(Path("state"), ["fraud"], 31_000)
    ports = dict(config.endpoints.ports)
    state = StackState("stopped", ports=ports, pipelines=(str(config.pipelines[0]),))
    StateFile(config.run, state)
    code, out, _ = run(capsys, "-o", "json", "status", "--data-dir", "state")
    report = json.loads(out)
    assert code == ExitCode.UNREACHABLE
    names = [component["name"] for component in report["components"]]
    assert names == [
        "kafka", "registry", "triton", "ray", "mlflow", "ingest", "inference", "gateway",
        "drift", "retrain-trigger",
    ]  # fmt: skip
    for component in report["components"]:
        assert set(component) == {"name", "state", "endpoint", "pids", "nodes"}
        assert component["state"] == "stopped"
    assert report["components"][0]["endpoint"] == "127.0.0.1:40092"


def test_doctor_prints_findings_with_fixes(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_TRITON_MODELS", str(workspace / "nowhere"))
    code, out, _ = run(capsys, "doctor", "-o", "json", "--data-dir", "state")
    findings = {finding["check"]: finding for finding in json.loads(out)["findings"]}
    assert code == ExitCode.FAILED
    assert findings["triton"]["level"] == "error"
    assert "PENSTOCK_TRITON_MODELS" in findings["triton"]["message"]
    assert findings["triton"]["fix"]
    assert {"python", "libpython", "ports", "disk", "memory", "state"} <= set(findings)


def test_what_is_not_given_is_taken_from_a_stack_that_was_killed(workspace: Path) -> None:
    first = stack_config(Path("state"), ["fraud"], 31_000)
    recorded = StackState(
        "ready", port_offset=31_000, ports=dict(first.endpoints.ports),
        pipelines=(str(first.pipelines[0]),),
    )  # fmt: skip
    StateFile(first.run, recorded)
    assert stack_config(Path("state")) == first
    StateFile(first.run, StackState("stopped", port_offset=31_000))
    assert stack_config(Path("state")).port_offset == 0


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (None, "127.0.0.1,localhost"),
        ("", "127.0.0.1,localhost"),
        ("example.org,localhost", "example.org,localhost,127.0.0.1"),
    ],
)
def test_loopback_is_added_to_what_bypasses_the_proxy(monkeypatch, configured, expected):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if configured is not None:
            monkeypatch.setenv(name, configured)
    reach_loopback_directly()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected
