"""The supervisor with tiny real processes: order, restart, take-over, stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from harness.tiny_components import (
    OFFSET,
    Until,
    leave_behind,
    pid_of,
    running,
    script,
    server,
    state,
)
from penstock_schemas.errors import ConfigError
from penstock_stack import processes, unit
from penstock_stack.component import Component, ComponentFailed, Launch, StackConfig, Stage
from penstock_stack.endpoints import Endpoints
from penstock_stack.state import read_state
from penstock_stack.supervisor import interruption, supervised


def test_what_is_needed_is_ready_first_and_stops_last(config: StackConfig) -> None:
    seen: list[str] = []
    first = server(config, "log", stage=Stage.LOG)
    action = Component(
        "topics",
        action=lambda: seen.extend(p.name for p in config.data_dir.glob("*.up")),
        needs=("log",),
        stage=Stage.SERVICE,
    )
    service = server(config, "service", needs=("topics",), stage=Stage.SERVICE)
    with running(config, service, action, first):
        assert seen == ["log.up"]
        assert state(config).phase == "ready"
        assert state(config).components["topics"].state == "done"
    assert (config.data_dir / "stopped").read_text().split() == ["service", "log"]
    assert processes.marked(config.data_dir) == []
    assert state(config).phase == "stopped"


def test_a_dead_component_is_started_again(config: StackConfig, until: Until) -> None:
    with running(config, server(config, "part")):
        old = pid_of(config, "part")
        os.kill(old, signal.SIGKILL)
        until(lambda: state(config).components["part"].restarts == 1)
        until(lambda: state(config).components["part"].state == "ready")
        assert pid_of(config, "part") != old


def test_a_component_that_says_it_is_not_live_is_started_again(
    config: StackConfig, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "EVERY_S", 0.0)
    monkeypatch.setattr(unit, "STUCK_S", 0.3)
    stuck = threading.Event()
    with running(config, server(config, "a", is_stuck=stuck.is_set)):
        first = read_state(config.run).components["a"].process
        stuck.set()
        until(lambda: read_state(config.run).components["a"].restarts == 1)
        stuck.clear()
        until(lambda: read_state(config.run).components["a"].state == "ready")
        assert read_state(config.run).components["a"].process != first


def test_what_depends_on_a_restarted_component_restarts_with_it(
    config: StackConfig, until: Until
) -> None:
    dependent = server(config, "app", needs=("head",), restarts_with=("head",))
    bystander = server(config, "bystander", needs=("head",))
    with running(config, server(config, "head"), dependent, bystander):
        app, other = pid_of(config, "app"), pid_of(config, "bystander")
        os.kill(pid_of(config, "head"), signal.SIGKILL)
        until(lambda: state(config).components["app"].restarts == 1)
        until(lambda: state(config).components["app"].state == "ready")
        assert pid_of(config, "app") != app
        assert pid_of(config, "bystander") == other


def test_a_job_that_fails_ends_the_start_with_the_end_of_its_log(config: StackConfig) -> None:
    job = script("job", "print('no such model'); raise SystemExit(3)")
    with pytest.raises(ComponentFailed, match=r"job ended with exit code 3.*\n.*no such model"):
        with running(config, server(config, "part"), job):
            pass
    assert processes.marked(config.data_dir) == []
    assert state(config).phase == "failed"
    assert "no such model" in str(state(config).error)


def test_a_job_that_ends_well_is_recorded(config: StackConfig, tmp_path: Path) -> None:
    done = tmp_path / "done"
    with running(config, script("job", "pass", on_done=done.touch)):
        assert done.exists()
        assert state(config).components["job"].state == "done"


def test_a_component_that_never_gets_ready_names_itself_and_its_deadline(
    config: StackConfig,
) -> None:
    never = server(config, "slow", is_ready=lambda: False, deadline_s=0.3)
    with pytest.raises(ComponentFailed, match="slow was not ready after 0 s"):
        with running(config, never):
            pass


def test_a_taken_port_is_named_with_its_setting_before_anything_starts(
    config: StackConfig,
) -> None:
    with socket.create_server(("127.0.0.1", config.endpoints.port("MLFLOW"))):
        with pytest.raises(ConfigError, match=r"PENSTOCK_MLFLOW_PORT.*pid.*--port-offset"):
            with running(config, server(config, "mlflow", ports=("MLFLOW",))):
                pass
    assert not (config.data_dir / "mlflow.up").exists()


def test_two_supervisors_cannot_own_one_directory(config: StackConfig) -> None:
    with running(config, server(config, "part")):
        with pytest.raises(ConfigError, match="penstock down"):
            with running(config, server(config, "part")):
                pass
        assert state(config).components["part"].state == "ready"


def test_the_next_supervisor_takes_over_what_lives(config: StackConfig, until: Until) -> None:
    pid = leave_behind(config, "part", until)
    with running(config, server(config, "part")):
        assert pid_of(config, "part") == pid
        os.kill(pid, signal.SIGKILL)  # and it watches it like its own child
        until(lambda: state(config).components["part"].restarts == 1)
        until(lambda: state(config).components["part"].state == "ready")
    assert processes.marked(config.data_dir) == []


def test_other_ports_mean_another_process(config: StackConfig, until: Until) -> None:
    pid = leave_behind(config, "part", until)
    other = OFFSET + 1
    moved = replace(config, endpoints=Endpoints.from_environment({}, other), port_offset=other)
    with running(moved, server(moved, "part")):
        assert pid_of(moved, "part") != pid
        assert processes.ProcessIdentity.of(pid) is None


def test_an_interrupted_start_stops_what_has_started(config: StackConfig) -> None:
    interrupted = threading.Event()
    interrupted.set()
    with supervised(config, [server(config, "part", is_ready=lambda: False)]) as supervisor:
        supervisor.start()
        assert supervisor.wait_ready(interrupted) is False
    assert processes.marked(config.data_dir) == []


def test_a_component_that_needs_a_stranger_is_refused(config: StackConfig) -> None:
    with pytest.raises(ComponentFailed, match="app needs ray"):
        with running(config, server(config, "app", needs=("ray",))):
            pass


def test_a_child_outlives_a_supervisor_killed_with_9(config: StackConfig, until: Until) -> None:
    code = f"""
import pathlib, sys, threading
from penstock_stack.component import *
from penstock_stack.endpoints import Endpoints
from penstock_stack.state import hold, release
from penstock_stack.supervisor import supervised
d = pathlib.Path({str(config.data_dir)!r})
c = StackConfig(d, d, Endpoints.from_environment({{}}, {OFFSET}))
part = Component("part", lambda: Launch((sys.executable, "-c", "import time; time.sleep(60)")),
                 lambda: True)
with supervised(c, [part]) as s:
    s.start(); s.wait_ready(threading.Event()); s.record_ready(); threading.Event().wait(60)
"""
    killed = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: state(config).phase == "ready")
    killed.kill()
    killed.wait(10)
    found = state(config).components["part"].process
    assert found is not None
    assert found.is_alive
    assert not state(config).is_supervised
    assert processes.sweep(config.data_dir, grace_s=5.0) == 0
    assert not found.is_alive


def test_what_a_killed_supervisor_left_can_be_stopped_in_order(
    config: StackConfig, until: Until
) -> None:
    pid = leave_behind(config, "part", until)
    (config.data_dir / "stopped").unlink()
    with supervised(config, [server(config, "part")]) as supervisor:
        supervisor.take_over()
    assert processes.ProcessIdentity.of(pid) is None
    assert (config.data_dir / "stopped").read_text().split() == ["part"]
    assert state(config).phase == "stopped"


def test_a_port_that_another_component_keeps_meanwhile_is_no_stranger_s(
    config: StackConfig, until: Until
) -> None:
    """As Ray's proxy keeps the gateway's port while inference is away."""
    listen = f"""
import pathlib, socket, time
s = socket.create_server(("127.0.0.1", {config.endpoints.port("GATEWAY")}))
pathlib.Path({str(config.data_dir / "head.up")!r}).touch()
time.sleep(60)
"""
    up = (config.data_dir / "head.up").exists
    head = Component("head", lambda: Launch((sys.executable, "-c", listen)), up, deadline_s=15.0)
    app = server(config, "app", needs=("head",), ports=("GATEWAY",))
    with running(config, head, app):
        os.kill(pid_of(config, "app"), signal.SIGKILL)
        until(lambda: state(config).components["app"].restarts == 1)
        until(lambda: state(config).components["app"].state == "ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event(number):
    before = signal.getsignal(number)
    with interruption() as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(number)
        assert interrupted.wait(20)
    assert signal.getsignal(number) is before
