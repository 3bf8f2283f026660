"""Router processes forked from one that has imported everything: a start costs no imports.

Imports are two of the three CPU seconds that a router takes to start, and the fault tests start
some two hundred. Run as a module, this is the process that forks; it has one thread, and no client.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final

TESTS: Final = Path(__file__).resolve().parents[1]
ANSWER_S: Final = 60.0
"""For the imports, once, and for each fork."""
_ORIGIN: Final = threading.Lock()


class Forked:
    """A process that runs `harness.bare_router.main` in a session of its own.

    Its surface is that of `subprocess.Popen`, whose child it cannot be.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._origin = _origin()
        self.pid: int = self._origin.ask("fork", dict(environment))
        self._handle = os.pidfd_open(self.pid)
        self._code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self._code is None and _is_readable(self._handle, 0.0):
                self._code = self._origin.ask("reap", self.pid)
                os.close(self._handle)
            return self._code

    def wait(self, timeout_s: float) -> int:
        """Return the exit code once it has ended; raise TimeoutExpired if it does not."""
        if self._code is None:
            _is_readable(self._handle, timeout_s)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a router", timeout_s)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class _Origin:
    """The process that forks, from outside."""

    def __init__(self) -> None:
        self._here, there = Pipe()
        self._lock = threading.Lock()
        os.set_inheritable(there.fileno(), True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "OMP_NUM_THREADS": "1",
            # Whether metrics are kept in files is decided at their import; where, by each process.
            "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
        }
        command = [sys.executable, "-m", "harness.forked", str(there.fileno())]
        # Ends when this end of the pipe is closed, with this process.
        self._process = subprocess.Popen(command, env=environment, pass_fds=[there.fileno()])
        there.close()

    def ask(self, what: str, how: Any) -> int:
        """Have something done; return the pid or the exit code."""
        with self._lock:
            self._here.send((what, how))
            assert self._here.poll(ANSWER_S), "no process is forked"
            answer: int = self._here.recv()
            return answer


@cache
def _make_origin() -> _Origin:
    return _Origin()


def _origin() -> _Origin:
    with _ORIGIN:
        return _make_origin()


def _is_readable(handle: int, timeout_s: float) -> bool:
    waiting = select.poll()
    waiting.register(handle, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))


def _load() -> None:
    """Import what a router imports, also what it imports with its first batch."""
    from penstock_schemas.codec import ColumnarDecoder

    for module in ("penstock_inference.router", "penstock_inference.settings"):
        import_module(module)
    schema = '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}'
    ColumnarDecoder(schema, lambda _: schema)
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    # A forked process has none of them but the one that forks; jemalloc starts its own anew.
    assert len(names) - names.count("jemalloc_bg_thd") == 1, f"threads {names}"


def _run(environment: Mapping[str, str]) -> None:
    """Be a router: leave the shared session and variables, and end with its exit code."""
    from harness import bare_router

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(bare_router.main())


def main(pipe: Connection) -> None:
    """Fork and reap as asked, until the other end is closed."""
    _load()
    while True:
        try:
            what, how = pipe.recv()
        except EOFError:
            return
        if what == "reap":
            pipe.send(os.waitstatus_to_exitcode(os.waitpid(how, 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            pipe.close()
            return _run(how)
        pipe.send(pid)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
