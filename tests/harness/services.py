"""Services as processes: routers without Ray Serve, and the inference service on its own Ray.

A bare router runs one `Router` with the service's own settings from the environment, until SIGTERM
(exit 0) or the end of its loop (exit 1). Serve adds placement and restarts; here the test is both.
Routers are forked from a process that has imported everything: imports are two of the three CPU
seconds that a router takes to start, and the fault tests start some two hundred. Run as a module,
this is the process that forks; it has one thread, and no client.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from harness.stack import child, free_offset, free_port, infrastructure, replica_rows
from harness.waiting import eventually
from penstock_stack.artifacts import cache_dir
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.ray_head import ray_environment, ray_temp_dir

if TYPE_CHECKING:
    from harness.judges import Figures

LOOK_S: Final = 0.1
STOP_S: Final = 15.0
PAGE_S: Final = 2.0
"""Longest wait for a page of a service, seconds."""
METRICS: Final = "metrics"
"""Folder of a test's routers' metrics, in their run folder."""


@dataclass(frozen=True)
class ServiceAddresses:
    """Where the services of a test find their neighbours.

    Parameters
    ----------
    kafka, registry, triton_grpc
        Addresses.
    models_dir
        The model server's repository.
    """

    kafka: str
    registry: str
    triton_grpc: str
    models_dir: Path


def service_settings(
    service: str,
    *,
    kafka: str,
    registry: str,
    pipelines: Sequence[Path],
    run_dir: Path,
    **settings: object,
) -> dict[str, str]:
    """Return what a service is told by variables.

    Parameters
    ----------
    service
        Its name as its settings' prefix has it: ``ingest``, ``retrain_trigger``.
    settings
        More settings, by their names without that prefix.
    """
    facts = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka,
        "REGISTRY__URL": registry,
        "PIPELINES": json.dumps([str(folder) for folder in pipelines]),
        "RUN_DIR": run_dir,
        **settings,
    }
    return {f"PENSTOCK_{service.upper()}_{name}": str(value) for name, value in facts.items()}


def inference_settings(
    addresses: ServiceAddresses, folder: Path, run_dir: Path, **settings: object
) -> dict[str, str]:
    """Return what inference is told for one pipeline, with a session of 6 s."""
    return service_settings(
        "inference",
        kafka=addresses.kafka,
        registry=addresses.registry,
        pipelines=[folder],
        run_dir=run_dir,
        TRITON__GRPC_URL=addresses.triton_grpc,
        LOOP__SESSION_TIMEOUT_S=6,
        **settings,
    )


class ServiceProcess(subprocess.Popen[bytes]):
    """A service as users run it: ``python -m penstock_<service>``, in a session of its own.

    Parameters
    ----------
    settings
        Variables beside the test's own, such as those of `service_settings`. ``METRICS_PORT`` is a
        free port unless it is among them.
    """

    def __init__(
        self, service: str, settings: Mapping[str, str], *, folder: Path | None = None
    ) -> None:
        self.service = service
        name = f"PENSTOCK_{service.upper()}_METRICS_PORT"
        self.port = int(settings.get(name) or free_port())
        environment = {**os.environ, **settings, name: str(self.port)}
        command = [sys.executable, "-m", f"penstock_{service}"]
        super().__init__(command, env=environment, cwd=folder, start_new_session=True)

    def get(self, path: str) -> str:
        """Return what its page of health and metrics answers; empty where nobody answers."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=PAGE_S) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a sample whose labels include those given."""
        from harness.judges import parse

        for (found, pairs), value in parse(self.get("/metrics").encode()).items():
            if found == name and labels.items() <= dict(pairs).items():
                return value
        return None

    @property
    def is_ready(self) -> bool:
        """Whether it works: its page says so."""
        return bool(self.get("/ready"))

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        """Send a signal and return the exit code."""
        self.send_signal(number)
        return self.wait(timeout_s)

    def end(self) -> None:
        """Make sure that it is gone, whatever state it is in."""
        if self.poll() is None:
            self.send_signal(signal.SIGCONT)
            self.kill()
            self.wait(STOP_S)


@dataclass(eq=False)  # each is one process
class BareRouter:
    """A router process.

    Parameters
    ----------
    folder
        The pipeline's.
    run_dir
        Shared by the routers of a test: facts, metrics, journals of what was in flight.
    extra
        More variables, such as ``PENSTOCK_INFERENCE_LOOP__SESSION_TIMEOUT_S``.
    """

    addresses: ServiceAddresses
    folder: Path
    run_dir: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        metrics = self.run_dir / METRICS
        metrics.mkdir(parents=True, exist_ok=True)
        settings = inference_settings(self.addresses, self.folder, self.run_dir)
        environment = {
            **os.environ,
            **settings,
            "PROMETHEUS_MULTIPROC_DIR": str(metrics),
            "OMP_NUM_THREADS": "1",
            **self.extra,
        }
        self.process = Forked(environment)

    @property
    def pid(self) -> int:
        """The process."""
        return self.process.pid

    @property
    def is_ready(self) -> bool:
        """Tell whether it takes records, as of its last look, at most `LOOK_S` old."""
        return self.process.poll() is None and ready_file(self.run_dir, self.pid).exists()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Return its exit code: -9 when it was killed."""
        return self.process.wait(timeout_s)

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Ask it to drain and end; return its exit code. One that stays says where it is."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.show_stacks()
            raise

    def show_stacks(self) -> None:
        """Have it print where its threads are, if it runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                self.wait(1.0)

    def end(self) -> None:
        """Make sure that it is gone, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(STOP_S)


def counted(run_dir: Path, name: str, **labels: str) -> float:
    """Return the sum of a counter over all routers of a run folder, the dead ones too."""
    from harness.judges import total

    return total(figures(run_dir), name, **labels)


def figures(run_dir: Path) -> Figures:
    """Return the metrics of all routers of a run folder together.

    They write them into files, so that those of one that was killed are complete. Gauges of dead
    ones are dropped.
    """
    from harness.judges import parse
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

    directory = run_dir / METRICS
    for pid in {f.stem.rpartition("_")[2] for f in directory.glob("gauge_live*_*.db")}:
        if not psutil.pid_exists(int(pid)):
            mark_process_dead(int(pid), str(directory))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return parse(generate_latest(registry))


def ready_file(run_dir: Path, pid: int) -> Path:
    """Return the file that a router has while it takes records."""
    return run_dir / f"ready-{pid}"


def run_router() -> int:
    """Run a router until told to stop."""
    from penstock_inference.router import Router
    from penstock_inference.settings import load_settings
    from penstock_pipelines.loader import load_pipeline
    from penstock_service.command import on_stop

    faulthandler.register(signal.SIGUSR1)
    stop = threading.Event()
    on_stop(stop.set)
    settings = load_settings()
    router = Router(settings, load_pipeline(settings.pipelines[0]))
    is_ready = ready_file(settings.run_dir, os.getpid())
    try:
        while not stop.wait(LOOK_S):
            is_ready.touch() if router.ready else is_ready.unlink(missing_ok=True)
            router.check_health()
    except RuntimeError as exc:
        sys.stderr.write(f"{exc}\n")
        router.close()
        return 1
    router.close()
    return 0


TESTS: Final = Path(__file__).resolve().parents[1]
ANSWER_S: Final = 60.0
"""For the imports, once, and for each fork."""
_ORIGIN: Final = threading.Lock()


class Forked:
    """A process that runs `run_router` in a session of its own.

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
        command = [sys.executable, "-m", "harness.services", str(there.fileno())]
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
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(run_router())


def fork_routers(pipe: Connection) -> None:
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


START_S: Final = 120.0


@dataclass
class ServeService:
    """The inference service on its own Ray.

    Parameters
    ----------
    root
        A folder of its own.
    folder
        The pipeline's.
    extra
        More settings, by the full names of their variables.
    """

    addresses: ServiceAddresses
    root: Path
    folder: Path
    extra: Mapping[str, str]
    metrics_port: int = 0

    @contextmanager
    def running(self) -> Iterator[ServeService]:
        """Start Ray and the service; end both."""
        offset = free_offset()
        endpoints = Endpoints.from_environment({}, offset)
        self.metrics_port = endpoints.port("INFERENCE")
        config = StackConfig(
            self.root / "stack", cache_dir(os.environ), endpoints, port_offset=offset
        )
        with infrastructure(config.data_dir, offset, "ray"):
            environment = os.environ | ray_environment(config) | self._settings(endpoints)
            command = [sys.executable, "-m", "penstock_inference"]
            with child(command, environment, self.root / "inference.txt"):
                eventually(lambda: self.ready == 1, START_S, "a router takes records")
                yield self
        assert not ray_temp_dir(config.data_dir).exists(), "Ray has left something"

    @property
    def run_dir(self) -> Path:
        """Folder of facts about the replicas."""
        return self.root / "run"

    @property
    def ready(self) -> int:
        """Router replicas that take records."""
        return sum(row["ready"] for row in replica_rows(self.metrics_port))

    @property
    def replicas(self) -> int:
        """Router replicas that there are."""
        return len(replica_rows(self.metrics_port))

    def _settings(self, endpoints: Endpoints) -> dict[str, str]:
        settings = inference_settings(
            self.addresses,
            self.folder,
            self.run_dir,
            FEAST_DIR=self.root / "feast",
            RAY_ADDRESS=endpoints.address("RAY_GCS"),
            GATEWAY_PORT=endpoints.port("GATEWAY"),
            METRICS_PORT=endpoints.port("INFERENCE"),
        )
        return {**settings, **self.extra}


if __name__ == "__main__":
    fork_routers(Connection(int(sys.argv[1])))
