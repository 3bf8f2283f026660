"""One component under supervision: start it, watch it, start it again; and its log file.

A component that answers "not live" for `STUCK_S` is restarted. Its log is rotated by copy and
truncate, and the end of it is the reason given where it fails.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from penstock_schemas.errors import FatalError, RetryableError

from penstock_stack import processes
from penstock_stack.component import Component, ComponentFailed, StackConfig
from penstock_stack.endpoints import require_free
from penstock_stack.processes import ProcessIdentity
from penstock_stack.state import StateFile, is_held

POLL_S: Final = 0.1
FIRST_ATTEMPTS: Final = 3
"""Attempts to bring a component up for the first time before the whole start fails."""
MAX_BACKOFF_S: Final = 10.0
STABLE_S: Final = 60.0
"""A component that stayed up this long starts its backoff afresh."""

_log = logging.getLogger(__name__)


class Unit:
    """Runs one component in a thread of its own until the stack stops.

    Parameters
    ----------
    component
        What to run.
    config
        The stack it belongs to.
    state
        Where its state is written.
    stopping
        Set when the stack stops.
    """

    def __init__(
        self,
        component: Component,
        config: StackConfig,
        state: StateFile,
        stopping: threading.Event,
    ) -> None:
        self.component = component
        self.log = config.logs / f"{component.name}.log"
        self.ready = threading.Event()
        self.error: FatalError | None = None
        self.generation = 0
        self.identity: ProcessIdentity | None = None
        self._config = config
        self._state = state
        self._stopping = stopping
        self._popen: subprocess.Popen[bytes] | None = None
        self._peers: Mapping[str, Unit] = {}
        self._thread = threading.Thread(target=self._run, name=component.name, daemon=True)

    @property
    def is_held(self) -> bool:
        """Whether somebody has stopped it by hand."""
        return is_held(self._config.run, self.component.name)

    def start(
        self, peers: Mapping[str, Unit], adopted: ProcessIdentity | None, started_at: float
    ) -> None:
        """Begin; ``adopted`` is a live process of an earlier supervisor, taken over as it is."""
        self._peers = peers
        self._started_at = started_at
        self.identity = adopted
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end, if it was started."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._keep_up()
        except FatalError as exc:
            self._fail(exc)
        except Exception as exc:
            _log.exception("supervision of %s failed", self.component.name)
            self._fail(ComponentFailed(f"{self.component.name}: {exc!r}"))

    def _fail(self, error: FatalError) -> None:
        self.error = error
        if not self._stopping.is_set():
            self._report(state="failed", error=str(error))

    def _report(self, **fields: object) -> None:
        self._state.change_component(self.component.name, **fields)

    def _keep_up(self) -> None:
        failures = 0
        while self._wait_until_wanted():
            peers = self._peer_generations()
            try:
                self._bring_up()
            except FatalError as exc:
                failures += 1
                # Only its own failure is worth another attempt; a setting stays wrong.
                is_setting = not isinstance(exc, ComponentFailed)
                if self.generation == 0 and (is_setting or failures >= FIRST_ATTEMPTS):
                    raise
                self._report(state="restarting", process=None, error=str(exc))
            else:
                if self.component.is_job or self._stopping.is_set():
                    return
                up_since = time.monotonic()
                reason = self._watch(peers)
                if reason is None:
                    return
                if not self.is_held:
                    failures = 1 if time.monotonic() - up_since > STABLE_S else failures + 1
                    self._begin_restart(reason)
            self._stopping.wait(min(MAX_BACKOFF_S, 0.25 * 2**failures))

    def _begin_restart(self, reason: str) -> None:
        self.ready.clear()
        restarts = self._state.current.components[self.component.name].restarts + 1
        _log.warning("%s: %s, starting it again", self.component.name, reason)
        self._report(state="restarting", process=None, error=reason, restarts=restarts)
        self.identity = None
        processes.sweep(self._config.data_dir, self.component.name, self.component.stop_s)

    def _wait_until_wanted(self) -> bool:
        """Wait until nobody holds it and what it needs is ready; False when the stack stops."""
        needs = [self._peers[name] for name in self.component.needs]
        was_held = False
        while not self._stopping.is_set():
            if self.is_held and not was_held:
                self._halt()
            was_held = self.is_held
            if not was_held and all(unit.ready.is_set() for unit in needs):
                return True
            self._stopping.wait(POLL_S)
        return False

    def _halt(self) -> None:
        self.ready.clear()
        processes.sweep(self._config.data_dir, self.component.name, self.component.stop_s)
        self.identity = None
        # What is started by hand later is no part of the stack's start: it may try for ever.
        self.generation += 1
        self._report(state="stopped", process=None, error=None)

    def _peer_generations(self) -> dict[str, int]:
        return {name: self._peers[name].generation for name in self.component.restarts_with}

    def _bring_up(self) -> None:
        component = self.component
        if component.action is not None:
            self._report(state="starting")
            try:
                component.action()
            except RetryableError as exc:
                raise ComponentFailed(f"{component.name}: {exc}") from exc
            self._become_ready("done")
            return
        deadline = time.monotonic() + component.deadline_s
        if self.identity is None or not self.identity.is_alive:
            self._spawn()
            deadline = time.monotonic() + component.deadline_s
        self._report(state="starting", process=self.identity)
        while not self._stopping.is_set() and not self.is_held:
            code = self._exit_code()
            if code == 0 and component.is_job:
                if component.on_done is not None:
                    component.on_done()
                self._become_ready("done")
                return
            if code is not None:
                raise self._failure(f"ended with exit code {code} before it was ready")
            if component.is_ready is not None and component.is_ready():
                self._become_ready("ready")
                return
            if time.monotonic() > deadline:
                self._kill()
                raise self._failure(f"was not ready after {component.deadline_s:.0f} s")
            self._stopping.wait(POLL_S)

    def _spawn(self) -> None:
        component = self.component
        assert component.prepare is not None, "a component has an action or a preparation"  # noqa: S101
        data_dir = self._config.data_dir
        processes.sweep(data_dir, component.name)
        require_free(component.ports, self._config.endpoints, lambda: processes.pids(data_dir))
        self._report(state="preparing", process=None)
        launch = component.prepare()
        if self._stopping.is_set():
            return
        self._popen = processes.spawn(launch, self.log, data_dir, component.name)
        if component.niceness:
            os.setpriority(os.PRIO_PROCESS, self._popen.pid, component.niceness)
        self.identity = ProcessIdentity.of(self._popen.pid)

    def _become_ready(self, state: str) -> None:
        self.generation += 1
        fields: dict[str, object] = {"state": state, "error": None}
        if self.generation == 1:
            fields["ready_after_s"] = round(time.monotonic() - self._started_at, 1)
        if state == "done":
            fields["process"] = None
        self._report(**fields)
        self.ready.set()

    def _failure(self, what: str) -> ComponentFailed:
        end = tail(self.log)
        detail = f"; its log ends with:\n{end}" if end else ""
        return ComponentFailed(f"{self.component.name} {what} (log: {self.log}){detail}")

    def _exit_code(self) -> int | None:
        """Return None while it runs; -1 where the code is not ours to know."""
        if self._popen is not None and self.identity and self._popen.pid == self.identity.pid:
            return self._popen.poll()
        return None if self.identity is not None and self.identity.is_alive else -1

    def _watch(self, peers: Mapping[str, int]) -> str | None:
        """Return why the component must start again, or None when the stack stops."""
        liveness = Liveness(self.component.is_stuck)
        while not self._stopping.wait(POLL_S):
            code = self._exit_code()
            if code is not None:
                return f"ended with exit code {code}" if code != -1 else "ended"
            if self._peer_generations() != peers:
                return "what it depends on was started again"
            if self.is_held:
                return "was stopped by hand"
            if liveness.is_lost():
                return "said that it is not live"
        return None

    def _kill(self) -> None:
        if self.identity is not None:
            processes.send([self.identity], signal.SIGKILL)
        processes.sweep(self._config.data_dir, self.component.name)
        self.identity = None


EVERY_S: Final = 2.0
STUCK_S: Final = 10.0
"""Time for which a component must say so before it is started again; one answer may be a moment."""


class Liveness:
    """Asks now and then whether a component is stuck.

    Parameters
    ----------
    is_stuck
        Answers within about a second; None for a component that only its exit can tell about.
    """

    def __init__(self, is_stuck: Callable[[], bool] | None) -> None:
        self._is_stuck = is_stuck
        self._next = 0.0
        self._since: float | None = None

    def is_lost(self) -> bool:
        """Return whether it has been stuck for `STUCK_S`; asks every `EVERY_S` only."""
        now = time.monotonic()
        if self._is_stuck is None or now < self._next:
            return False
        self._next = now + EVERY_S
        if not self._is_stuck():
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= STUCK_S


MAX_LOG_BYTES = 20 * 1024 * 1024
KEPT_LOGS = 3
_TAIL_BYTES = 16 * 1024


def rotate(log: Path, max_bytes: int = MAX_LOG_BYTES, keep: int = KEPT_LOGS) -> bool:
    """Copy a log that has grown too large to ``.1`` and empty it; return whether it did.

    The writer holds the file open in append mode and goes on at the new end, so it need not know.
    What it writes between the copy and the truncation is lost.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as stream:
        stream.truncate(0)
    return True


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines that are not empty, or an empty text."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
