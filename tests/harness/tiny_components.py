"""Tiny real processes as components of a stack, for tests of its supervisor."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from penstock_stack import processes
from penstock_stack.component import Component, Launch, StackConfig
from penstock_stack.state import StackState, read_state
from penstock_stack.supervisor import Supervisor, supervised

OFFSET = 22_500 + 37 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Ports of each test worker, below those that the system gives to connections of others."""
Until = Callable[[Callable[[], bool]], None]
NEVER = threading.Event()
SERVE = """
import pathlib, signal, sys, time
def stop(*_):
    with open(sys.argv[2], "a") as log:
        log.write(sys.argv[3] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def server(config: StackConfig, name: str, **fields: object) -> Component:
    """Return a component that is ready once its file exists."""
    up = config.data_dir / f"{name}.up"
    stopped = config.data_dir / "stopped"

    def prepare() -> Launch:
        up.unlink(missing_ok=True)
        return Launch((sys.executable, "-c", SERVE, str(up), str(stopped), name))

    component = Component(name, prepare, up.exists, deadline_s=15.0, stop_s=5.0)
    return replace(component, **fields)  # type: ignore[arg-type]


def script(name: str, code: str, **fields: object) -> Component:
    component = Component(name, lambda: Launch((sys.executable, "-c", code)), deadline_s=15.0)
    return replace(component, **fields)  # type: ignore[arg-type]


@contextmanager
def running(config: StackConfig, *components: Component) -> Iterator[Supervisor]:
    with supervised(config, components) as supervisor:
        supervisor.start()
        assert supervisor.wait_ready(NEVER)
        supervisor.record_ready()
        yield supervisor


def state(config: StackConfig) -> StackState:
    return read_state(config.run)


def pid_of(config: StackConfig, name: str) -> int:
    process = state(config).components[name].process
    assert process is not None
    return process.pid


def leave_behind(config: StackConfig, name: str, until: Until) -> int:
    """Do what a supervisor killed with -9 does: leave its state and its child."""
    with running(config, server(config, name)):
        record = json.loads((config.run / "state.json").read_text())
    child = processes.spawn(
        server(config, name).prepare(),  # type: ignore[misc]
        config.logs / f"{name}.log",
        config.data_dir,
        name,
    )
    until((config.data_dir / f"{name}.up").exists)
    identity = processes.ProcessIdentity.of(child.pid)
    assert identity is not None
    process = {"pid": child.pid, "start_ticks": identity.start_ticks, "boot_id": identity.boot_id}
    record["components"][name]["process"] = process
    (config.run / "state.json").write_text(json.dumps(record))
    threading.Thread(target=child.wait, daemon=True).start()  # as init would
    return child.pid
