"""Recognising, marking and ending real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from penstock_stack import processes
from penstock_stack.component import Launch
from penstock_stack.processes import ProcessIdentity

SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(60)",
)
PARENT = (
    sys.executable,
    "-c",
    "import subprocess,sys; subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)'],"
    "start_new_session=True); print('started', flush=True)",
)
Until = Callable[[Callable[[], bool]], None]


def start(launch: tuple[str, ...], data_dir: Path, name: str = "part") -> subprocess.Popen[bytes]:
    return processes.spawn(Launch(launch), data_dir / f"{name}.log", data_dir, name)


def test_a_live_process_is_recognised_and_a_dead_one_is_not(tmp_path: Path) -> None:
    child = start(SLEEPER, tmp_path)
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    assert identity.is_alive
    child.kill()
    child.wait(10)
    assert not identity.is_alive
    assert ProcessIdentity.of(child.pid) is None


def test_a_zombie_is_dead(tmp_path: Path, until: Until) -> None:
    child = start(SLEEPER, tmp_path)
    identity = ProcessIdentity.of(child.pid)
    assert identity is not None
    child.kill()
    until(lambda: not identity.is_alive)  # before anybody waited for it
    assert child.wait(10) < 0


def test_a_reused_pid_is_another_process() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me is not None
    assert not ProcessIdentity(me.pid, me.start_ticks + 1, me.boot_id).is_alive
    assert not ProcessIdentity(me.pid, me.start_ticks, "another boot").is_alive


def test_a_child_has_its_own_session_and_appends_to_its_log(tmp_path: Path) -> None:
    (tmp_path / "part.log").write_text("before\n")
    child = start((sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"), tmp_path)
    assert child.wait(10) == 0
    assert (tmp_path / "part.log").read_text() == "before\nTrue\n"


def test_grandchildren_of_a_dead_child_are_found_and_swept(tmp_path: Path, until: Until) -> None:
    child = start(PARENT, tmp_path)
    assert child.wait(10) == 0
    (orphan,) = processes.marked(tmp_path, "part")
    assert processes.marked(tmp_path, "another") == []
    assert processes.marked(tmp_path / "elsewhere") == []
    assert processes.sweep(tmp_path) == 1
    assert not orphan.is_alive


def test_sweep_asks_first_and_kills_what_does_not_listen(tmp_path: Path, until: Until) -> None:
    polite = start(SLEEPER, tmp_path, "polite")
    deaf = start(STUBBORN, tmp_path, "deaf")
    until(lambda: "deaf" in (tmp_path / "deaf.log").read_text())
    assert processes.sweep(tmp_path, grace_s=0.3) == 1
    assert (polite.wait(10), deaf.wait(10)) == (-15, -9)
