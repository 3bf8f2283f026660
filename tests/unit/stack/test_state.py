"""Services stopped by hand, with tiny real processes."""

from __future__ import annotations

from pathlib import Path

from harness.tiny_components import NEVER, Until, leave_behind, pid_of, running, server, state
from penstock_stack import processes
from penstock_stack.component import StackConfig
from penstock_stack.state import held, hold, release
from penstock_stack.supervisor import supervised


def test_what_is_held_is_stopped_and_started_again_by_hand_only(
    config: StackConfig, until: Until
) -> None:
    with running(config, server(config, "part"), server(config, "other")):
        pid, other = pid_of(config, "part"), pid_of(config, "other")
        hold(config.run, "part")
        until(lambda: state(config).components["part"].state == "stopped")
        assert processes.ProcessIdentity.of(pid) is None
        assert (config.data_dir / "stopped").read_text().split() == ["part"]  # asked, not killed
        assert state(config).components["part"].process is None
        release(config.run, "part")
        until(lambda: state(config).components["part"].state == "ready")
        assert pid_of(config, "part") != pid
        assert state(config).components["part"].restarts == 0
        assert pid_of(config, "other") == other
    assert processes.marked(config.data_dir) == []


def test_what_is_held_is_not_waited_for_and_stays_stopped_after_a_new_start(
    config: StackConfig, until: Until
) -> None:
    hold(config.run, "part")
    with running(config, server(config, "part"), server(config, "other")):
        assert state(config).phase == "ready"
        until(lambda: state(config).components["part"].state == "stopped")
        assert not (config.data_dir / "part.up").exists()
        release(config.run, "part")
        until(lambda: state(config).components["part"].state == "ready")


def test_what_an_earlier_supervisor_left_running_is_stopped_if_held(
    config: StackConfig, until: Until
) -> None:
    pid = leave_behind(config, "part", until)
    hold(config.run, "part")
    with running(config, server(config, "part")):
        until(lambda: state(config).components["part"].state == "stopped")
        assert processes.ProcessIdentity.of(pid) is None


def test_a_start_is_given_up_when_the_component_is_held(config: StackConfig, until: Until) -> None:
    never = server(config, "part", is_ready=lambda: False)
    with supervised(config, [never]) as supervisor:
        supervisor.start()
        until(lambda: state(config).components["part"].state == "starting")
        hold(config.run, "part")
        until(lambda: state(config).components["part"].state == "stopped")
        assert supervisor.wait_ready(NEVER)
        assert state(config).components["part"].process is None


def test_what_is_held_is_listed_and_released_more_than_once(tmp_path: Path) -> None:
    assert held(tmp_path) == []
    hold(tmp_path, "ingest")
    hold(tmp_path, "drift")
    assert held(tmp_path) == ["drift", "ingest"]
    release(tmp_path, "ingest")
    release(tmp_path, "ingest")
    assert held(tmp_path) == ["drift"]
