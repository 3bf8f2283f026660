"""The run folder's files: the supervisor's state, and which services are held by hand.

``penstock status`` and the next ``up`` read the state. A held service stays stopped until
``penstock start``: one empty file each, written by the command line, looked for by the supervisor.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from penstock_schemas.errors import ConfigError

from penstock_stack.processes import ProcessIdentity


@dataclass(frozen=True, slots=True)
class ComponentState:
    """One component.

    Parameters
    ----------
    state
        waiting, preparing, starting, ready, restarting, done (a job), failed or stopped.
    process
        Its process, if one runs.
    endpoint
        Address, for people.
    restarts
        Times it was started again.
    error
        Why it failed last.
    ready_after_s
        Seconds from the stack's start until it was ready for the first time.
    """

    state: str = "waiting"
    process: ProcessIdentity | None = None
    endpoint: str = ""
    restarts: int = 0
    error: str | None = None
    ready_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class StackState:
    """The whole stack."""

    phase: str = "stopped"
    supervisor: ProcessIdentity | None = None
    error: str | None = None
    port_offset: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    pipelines: tuple[str, ...] = ()
    components: dict[str, ComponentState] = field(default_factory=dict)

    @property
    def is_supervised(self) -> bool:
        """Whether its supervisor is alive."""
        return self.supervisor is not None and self.supervisor.is_alive


def _identity(data: dict[str, Any] | None) -> ProcessIdentity | None:
    return None if data is None else ProcessIdentity(**data)


def read_state(run_dir: Path) -> StackState:
    """Return the state on disk, or an empty one.

    Raises
    ------
    ConfigError
        The file is not one of ours.
    """
    path = run_dir / "state.json"
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return StackState()
    except ValueError as exc:
        raise ConfigError(f"{path} is damaged; remove it and run 'penstock up' again") from exc
    components = {
        name: ComponentState(**{**fields, "process": _identity(fields["process"])})
        for name, fields in data.pop("components").items()
    }
    supervisor = _identity(data.pop("supervisor"))
    pipelines = tuple(data.pop("pipelines"))
    return StackState(**data, supervisor=supervisor, pipelines=pipelines, components=components)


class StateFile:
    """The state file as its one writer sees it. Thread-safe; each change is one rename."""

    def __init__(self, run_dir: Path, initial: StackState) -> None:
        self._path = run_dir / "state.json"
        self._lock = threading.Lock()
        self._state = initial
        self._listeners: list[Callable[[StackState], None]] = []
        run_dir.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def current(self) -> StackState:
        """The state as last written."""
        return self._state

    def listen(self, listener: Callable[[StackState], None]) -> None:
        """Call ``listener`` after each change, in the thread that made it."""
        self._listeners.append(listener)

    def change(self, **fields: Any) -> None:
        """Change fields of the stack."""
        with self._lock:
            self._state = replace(self._state, **fields)
            self._write()
        self._notify()

    def change_component(self, name: str, **fields: Any) -> None:
        """Change fields of one component."""
        with self._lock:
            old = self._state.components.get(name, ComponentState())
            components = {**self._state.components, name: replace(old, **fields)}
            self._state = replace(self._state, components=components)
            self._write()
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener(self._state)

    def _write(self) -> None:
        aside = self._path.with_suffix(".aside")
        aside.write_text(json.dumps(asdict(self._state), indent=1), "utf-8")
        aside.replace(self._path)


@contextmanager
def sole_supervisor(run_dir: Path) -> Iterator[None]:
    """Hold the lock that makes this process the data directory's only supervisor.

    The kernel drops it with the process, also after a kill -9.

    Raises
    ------
    ConfigError
        Another supervisor holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigError(
                f"a stack already runs on {run_dir.parent}; see 'penstock status', "
                "stop it with 'penstock down', or give another --data-dir"
            ) from exc
        yield
    finally:
        os.close(descriptor)


_FOLDER: Final = "held"


def hold(run_dir: Path, service: str) -> None:
    """Have the supervisor stop a service, and leave it stopped."""
    folder = run_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / service).touch()


def release(run_dir: Path, service: str) -> None:
    """Have the supervisor start a service again."""
    (run_dir / _FOLDER / service).unlink(missing_ok=True)


def is_held(run_dir: Path, service: str) -> bool:
    """Return whether a service is to stay stopped."""
    return (run_dir / _FOLDER / service).exists()


def held(run_dir: Path) -> list[str]:
    """Return the services that are to stay stopped."""
    folder = run_dir / _FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
