"""``penstock up`` and ``penstock down``."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    Pipelines,
    PortOffset,
    Profile,
    global_options,
    recorded_state,
    stack_config,
)

if TYPE_CHECKING:
    from penstock_stack.component import Component, StackConfig
    from penstock_stack.state import ComponentState, StackState
    from penstock_stack.supervisor import Supervisor

READY_WITHIN_S = 900.0
"""Longest start, with every download; each component has a shorter deadline of its own."""
DOWN_WITHIN_S = 25.0
_POLL_S = 0.1
_NEVER_STARTED = ("waiting", "stopped")


def up(
    context: typer.Context,
    pipeline: Pipelines = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when everything is ready.")
    ] = False,
) -> None:
    """Start the embedded stack and all services; Ctrl-C drains and stops them."""
    if global_options(context).profile is Profile.prod:
        console.note("penstock: up runs the embedded stack, which is for --profile local only")
        raise typer.Exit(ExitCode.REFUSED)
    config = stack_config(data_dir, pipeline, port_offset)
    if detach:
        start_detached(config)
    else:
        run_in_foreground(config)


def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the embedded stack and everything that belongs to it."""
    stop(data_dir.resolve())


def components(config: StackConfig) -> list[Component]:
    """Return everything that ``up`` runs."""
    from penstock_stack.catalogue import infrastructure, services

    def apply_topics() -> None:
        from penstock_cli.topics import apply_all

        apply_all(config)

    return [*infrastructure(config), *services(config, apply_topics)]


def run_in_foreground(config: StackConfig) -> None:
    """Run the stack in this process until SIGINT or SIGTERM."""
    from penstock_stack.supervisor import interruption

    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    with interruption() as interrupted, _supervised(config) as supervisor:
        supervisor.start()
        if supervisor.wait_ready(interrupted):
            supervisor.record_ready()
            console.note(f"ready; state and logs in {config.data_dir}, stop with Ctrl-C")
            _note_held(config)
            supervisor.supervise(interrupted)
        console.note("stopping")


@contextmanager
def _supervised(config: StackConfig) -> Iterator[Supervisor]:
    from penstock_stack.supervisor import supervised

    with supervised(config, components(config)) as supervisor:
        progress = Progress()
        supervisor.listen(progress.show)
        yield supervisor


def start_detached(config: StackConfig) -> None:
    """Start the stack in a process of its own and wait until everything is ready.

    Raises
    ------
    ConfigError
        A stack already runs there.
    ComponentFailed
        It did not come up; nothing is left running.
    """
    from penstock_schemas.errors import ConfigError
    from penstock_stack.supervisor import interruption
    from penstock_stack.unit import tail

    state = recorded_state(config.data_dir)
    if state.is_supervised:
        if state.phase == "ready":
            console.note(f"already running on {config.data_dir}")
            return
        raise ConfigError(f"a stack on {config.data_dir} is {state.phase}; see 'penstock status'")
    config.logs.mkdir(parents=True, exist_ok=True)
    log = config.logs / "supervisor.log"
    size = log.stat().st_size if log.exists() else 0
    child = _spawn_foreground(config, log)
    with interruption() as interrupted:
        came_up = _follow(child, config, interrupted)
    if came_up:
        console.note(f"ready; state and logs in {config.data_dir}, stop with 'penstock down'")
        _note_held(config)
        return
    with log.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(size)
        text = stream.read().strip()
    from penstock_stack.component import ComponentFailed

    raise ComponentFailed(f"the stack did not come up (log: {log}):\n{text or tail(log)}")


def _note_held(config: StackConfig) -> None:
    from penstock_stack.state import held

    for service in held(config.run):
        console.note(f"{service} stays stopped, as somebody wanted: 'penstock start {service}'")


def _spawn_foreground(config: StackConfig, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "penstock_cli", "up", "--data-dir", str(config.data_dir)]
    command += ["--port-offset", str(config.port_offset)]
    for folder in config.pipelines:
        command += ["--pipeline", str(folder)]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _follow(
    child: subprocess.Popen[bytes], config: StackConfig, interrupted: threading.Event
) -> bool:
    """Show the child's progress until it is ready (True) or has ended (False)."""
    progress = Progress()
    deadline = time.monotonic() + READY_WITHIN_S
    while child.poll() is None:
        state = recorded_state(config.data_dir)
        if state.supervisor is not None and state.supervisor.pid == child.pid:
            progress.show(state)
            if state.phase == "ready":
                return True
        if interrupted.wait(_POLL_S) or time.monotonic() > deadline:
            child.terminate()
            child.wait(DOWN_WITHIN_S)
    return False


def stop(data_dir: Path) -> None:
    """Stop the stack on ``data_dir``: through its supervisor, or, if that was killed, in its place.

    Raises
    ------
    ConfigError
        Its supervisor does not end in time.
    """
    from penstock_schemas.errors import ConfigError
    from penstock_stack import processes

    state = recorded_state(data_dir)
    if state.supervisor is not None and state.is_supervised:
        processes.send([state.supervisor], signal.SIGTERM)
        if processes.wait_gone([state.supervisor], DOWN_WITHIN_S):
            raise ConfigError(
                f"supervisor {state.supervisor.pid} does not stop; kill -9 it, then "
                "run 'penstock down' again"
            )
    elif not processes.marked(data_dir):
        console.note(f"nothing runs on {data_dir}")
        return
    else:
        _stop_unsupervised(data_dir, state)
    processes.sweep(data_dir, grace_s=1.0)
    console.note("stopped")


def _stop_unsupervised(data_dir: Path, state: StackState) -> None:
    import os

    from penstock_stack.artifacts import cache_dir
    from penstock_stack.component import StackConfig
    from penstock_stack.status import endpoints_of
    from penstock_stack.supervisor import supervised

    folders = tuple(map(Path, state.pipelines))
    config = StackConfig(data_dir, cache_dir(os.environ), endpoints_of(state), folders)
    with supervised(config, components(config)) as supervisor:
        supervisor.take_over()


class Progress:
    """Prints each change of a component once. Called from the threads that make them."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, state: StackState) -> None:
        """Print what is new in ``state``."""
        with self._lock:
            for name, component in state.components.items():
                before = self._shown.get(name, "waiting")
                if before == component.state or (before, component.state) == _NEVER_STARTED:
                    continue
                self._shown[name] = component.state
                console.note(f"  {name:<24} {_what(component)}")


def _what(component: ComponentState) -> str:
    is_first = component.ready_after_s is not None and not component.restarts
    if component.state in ("ready", "done") and is_first:
        return f"{component.state} after {component.ready_after_s} s"
    if component.state in ("restarting", "failed") and component.error:
        return f"{component.state}: {component.error.splitlines()[0]}"
    return component.state
