"""Starts the components in parallel, keeps them up, stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from penstock_stack import processes
from penstock_stack.component import Component, ComponentFailed, StackConfig, Stage
from penstock_stack.endpoints import require_free
from penstock_stack.processes import ProcessIdentity
from penstock_stack.state import ComponentState, StackState, StateFile, read_state, sole_supervisor
from penstock_stack.unit import POLL_S, Unit, rotate

STOP_BUDGET_S: Final = 14.0
_ROTATE_EVERY_S: Final = 5.0

_log = logging.getLogger(__name__)


class Supervisor:
    """The one process that runs a stack.

    Parameters
    ----------
    config
        Where and with which ports.
    components
        What to run; the names in ``needs`` and ``restarts_with`` must be among them.
    state
        The state file, of which this is the only writer.
    adopted
        Live processes of an earlier supervisor that was killed, by component.
    """

    def __init__(
        self,
        config: StackConfig,
        components: Sequence[Component],
        state: StateFile,
        adopted: Mapping[str, ProcessIdentity],
    ) -> None:
        self._config = config
        self._state = state
        self._adopted = adopted
        self._stopping = threading.Event()
        self._units = {c.name: Unit(c, config, state, self._stopping) for c in components}

    def start(self) -> None:
        """Start every component's thread; returns at once.

        Raises
        ------
        ConfigError
            A port is taken.
        """
        units = self._units.values()
        fresh = [u for u in units if u.component.name not in self._adopted and not u.is_held]
        require_free(
            [port for u in fresh for port in u.component.ports],
            self._config.endpoints,
            lambda: processes.pids(self._config.data_dir),
        )
        started_at = time.monotonic()
        for name, unit in self._units.items():
            unit.start(self._units, self._adopted.get(name), started_at)

    def take_over(self) -> None:
        """Own what an earlier supervisor left, only to stop it in order."""
        for name, process in self._adopted.items():
            self._units[name].identity = process

    def listen(self, listener: Callable[[StackState], None]) -> None:
        """Call ``listener`` after each change of the state, in whichever thread made it."""
        self._state.listen(listener)

    def record_ready(self) -> None:
        """Write down that everything is ready, for those who wait for a detached stack."""
        self._state.change(phase="ready")

    def wait_ready(self, interrupted: threading.Event) -> bool:
        """Wait until everything is ready; False if interrupted. Each component has its deadline.

        What somebody has stopped by hand is not waited for.

        Raises
        ------
        ComponentFailed
            One of them cannot be brought up.
        """
        while not all(unit.ready.is_set() or unit.is_held for unit in self._units.values()):
            failed = next((u.error for u in self._units.values() if u.error is not None), None)
            if failed is not None:
                raise failed
            if interrupted.wait(POLL_S):
                return False
        return True

    def supervise(self, interrupted: threading.Event) -> None:
        """Rotate logs until interrupted; the units' threads keep the components up."""
        while not interrupted.wait(_ROTATE_EVERY_S):
            for log in self._config.logs.glob("*.log"):
                if rotate(log):
                    _log.info("rotated %s", log)

    def stop(self) -> None:
        """Stop everything within the budget, services first, the log last; leave nothing."""
        deadline = time.monotonic() + STOP_BUDGET_S
        self._stopping.set()
        for stage in sorted(Stage, reverse=True):
            units = [u for u in self._units.values() if u.component.stage is stage]
            alive = [u.identity for u in units if u.identity is not None]
            processes.send(alive, signal.SIGTERM)
            grace_s = max((u.component.stop_s for u in units), default=0.0)
            processes.wait_gone(alive, min(grace_s, max(0.5, deadline - time.monotonic())))
            for unit in units:
                killed = processes.sweep(self._config.data_dir, unit.component.name)
                if unit.component.on_stopped is not None:
                    unit.component.on_stopped()
                self._state.change_component(unit.component.name, state="stopped", process=None)
                if killed:
                    _log.info("%s: %d processes had to be killed", unit.component.name, killed)
        for unit in self._units.values():
            unit.join(0.5)
        processes.sweep(self._config.data_dir)


@contextmanager
def supervised(config: StackConfig, components: Sequence[Component]) -> Iterator[Supervisor]:
    """Own the data directory, take over what lives, and stop everything at the end.

    Raises
    ------
    ConfigError
        Another supervisor owns the data directory, or a port is taken.
    ComponentFailed
        The stack does not come up.
    """
    check_wiring(components)
    config.logs.mkdir(parents=True, exist_ok=True)
    with sole_supervisor(config.run):
        adopted = _survivors(config, components)
        state = StateFile(config.run, _initial_state(config, components))
        # What this process itself runs (installers) is found by `down`, too.
        os.environ[processes.STACK_MARKER] = str(config.data_dir)
        os.environ[processes.COMPONENT_MARKER] = "supervisor"
        supervisor = Supervisor(config, components, state, adopted)
        error: str | None = None
        try:
            yield supervisor
        except BaseException as exc:
            error = str(exc) or type(exc).__name__
            raise
        finally:
            state.change(phase="stopping", error=error)
            supervisor.stop()
            state.change(phase="failed" if error else "stopped", supervisor=None)


def _initial_state(config: StackConfig, components: Sequence[Component]) -> StackState:
    return StackState(
        phase="starting",
        supervisor=ProcessIdentity.of(os.getpid()),
        port_offset=config.port_offset,
        ports=dict(config.endpoints.ports),
        pipelines=tuple(str(path) for path in config.pipelines),
        components={c.name: ComponentState(endpoint=c.endpoint) for c in components},
    )


def _survivors(config: StackConfig, components: Sequence[Component]) -> dict[str, ProcessIdentity]:
    """Return what an earlier, killed supervisor left running and is still wanted as it is.

    Everything else that carries the stack's mark is ended: another port or another pipeline needs
    another command line.
    """
    old = read_state(config.run)
    same = old.ports == dict(config.endpoints.ports) and old.pipelines == tuple(
        str(path) for path in config.pipelines
    )
    keep: dict[str, ProcessIdentity] = {}
    for component in components:
        process = old.components.get(component.name, ComponentState()).process
        if same and not component.is_job and process is not None and process.is_alive:
            keep[component.name] = process
    for name in {*old.components, "supervisor"} - set(keep):
        processes.sweep(config.data_dir, name)
    return keep


def check_wiring(components: Sequence[Component]) -> None:
    """Refuse a component that names one that is not there.

    Raises
    ------
    ComponentFailed
        Names both.
    """
    names = {component.name for component in components}
    for component in components:
        for name in (*component.needs, *component.restarts_with):
            if name not in names:
                raise ComponentFailed(f"{component.name} needs {name}, which is not in the stack")


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event, so that stopping happens in one place.

    A thread of its own sets it: a handler runs wherever the main thread is, also where that holds
    the lock of the event it waits for.
    """
    interrupted = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    old = [
        signal.signal(number, lambda *_: start_new_thread(interrupted.set, ()))
        for number in numbers
    ]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, old, strict=True):
            signal.signal(number, handler)
