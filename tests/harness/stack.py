"""Everything that runs outside a test: the embedded stack, parts of it, brokers of a test's own.

`Stack` starts and reads the whole stack through its command line and its endpoints only.
`infrastructure` runs named components (Kafka, registry, Triton, Ray, MLflow) without the services.
`Cluster` is a Kafka cluster whose brokers a test may stop, kill, freeze and start again.
`free_offset` and `a_stack_starts` keep runs of the suite on one machine out of each other's way.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import psutil
from harness.faults import kill
from harness.waiting import eventually
from penstock_stack.artifacts import cache_dir, kafka_classpath
from penstock_stack.endpoints import HOST, Endpoints
from penstock_stack.kafka_server import CLUSTER_ID, java
from penstock_stack.probes import body, kafka_answers

CHILD_STOP_S: Final = 40.0


@contextmanager
def child(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a process that ends on SIGTERM for the time of the block, with its output in a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        except BaseException:
            print(log.read_text(errors="replace")[-4_000:])  # noqa: T201 - shown with the failure
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(CHILD_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(CHILD_STOP_S)


PENSTOCK: Final = Path(sys.executable).parent / "penstock"
UP_TIMEOUT_S: Final = 300.0
DOWN_TIMEOUT_S: Final = 60.0

KEPT: Final = ("PENSTOCK_TEST_", "PENSTOCK_DATASETS")


def is_setting(name: str) -> bool:
    """Tell whether an environment variable is a setting of the caller's, not of the test run."""
    return name == "MODEL_THRESHOLD" or (name.startswith("PENSTOCK_") and not name.startswith(KEPT))


class CommandFailed(AssertionError):
    """A `penstock` command that should have worked did not."""


def penstock(*arguments: str, timeout_s: float = 60.0, check: bool = True) -> str:
    """Run a `penstock` command and return its standard output.

    Raises
    ------
    CommandFailed
        If it exits with another code than 0 and ``check`` is set, or does not end in time.
    """
    command = [str(PENSTOCK), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as exc:
        raise CommandFailed(f"{command} took longer than {timeout_s} s\n{exc.stderr!r}") from exc
    if check and done.returncode != 0:
        raise CommandFailed(f"{command} exits {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def replica_rows(port: int) -> list[dict[str, Any]]:
    """Return what the inference service at a port knows of its replicas; none if it is away."""
    rows: list[dict[str, Any]] = json.loads(body(port, "/replicas", 5.0) or b"[]")
    return rows


@cache
def endpoints(data_dir: Path) -> dict[str, str]:
    """Return the address of each component; they stay the same while the stack lives."""
    components = Stack(data_dir).status()["components"]
    return {c["name"]: str(c["endpoint"]).rstrip("/") for c in components}


@dataclass(frozen=True)
class Stack:
    """An embedded stack, by its data directory."""

    data_dir: Path

    @classmethod
    def start(cls, data_dir: Path, port_offset: int, pipelines: tuple[Path, ...] = ()) -> Stack:
        """Start a stack, or resume one whose supervisor is gone, and wait until it is ready.

        One that does not become ready is stopped: its parts are processes of their own.
        """
        named = [part for folder in pipelines for part in ("--pipeline", str(folder))]
        place = ("--data-dir", str(data_dir), "--port-offset", str(port_offset))
        started = cls(data_dir)
        try:
            penstock("up", "--detach", *place, *named, timeout_s=UP_TIMEOUT_S)
        except BaseException:  # a test's time-out is none of the errors
            with suppress(CommandFailed):
                started.stop()
            raise
        return started

    @classmethod
    @contextmanager
    def running(
        cls, data_dir: Path, port_offset: int, pipelines: tuple[Path, ...]
    ) -> Iterator[Stack]:
        """Run a stack for the time of the block."""
        started = cls.start(data_dir, port_offset, pipelines)
        try:
            yield started
        finally:
            started.stop()

    def stop(self) -> None:
        """Stop everything."""
        penstock("down", "--data-dir", str(self.data_dir), timeout_s=DOWN_TIMEOUT_S)

    def status(self) -> dict[str, Any]:
        """Return what `penstock status` says."""
        text = penstock("-o", "json", "status", "--data-dir", str(self.data_dir), check=False)
        found: dict[str, Any] = json.loads(text)
        return found

    def component(self, name: str) -> dict[str, Any]:
        """Return a component of the status."""
        for component in self.status()["components"]:
            if component["name"] == name:
                return dict(component)
        raise AssertionError(f"status knows no component {name}")

    def unwell(self) -> list[str]:
        """Return the components that are not ready."""
        return [
            f"{c['name']} is {c['state']}"
            for c in self.status()["components"]
            if c["state"] != "ready"
        ]

    def pids(self, component: str) -> list[int]:
        """Return the process ids of a component; of inference, those of its replicas."""
        return [int(pid) for pid in self.component(component)["pids"]]

    def replicas(self, pipeline: str) -> list[int]:
        """Return the process ids of a pipeline's router replicas that take records."""
        port = int(self._endpoint("inference").rpartition(":")[2])
        return sorted(
            row["pid"]
            for row in replica_rows(port)
            if row["pipeline"] == pipeline and row["ready"] and psutil.pid_exists(row["pid"])
        )

    def scale(self, pipeline: str, replicas: int) -> None:
        """Ask inference for a number of router replicas."""
        path = self.run_dir / "inference-scale.json"
        wanted = json.loads(path.read_text()) if path.exists() else {}
        aside = path.with_suffix(".test")
        aside.write_text(json.dumps({**wanted, pipeline: replicas}))
        aside.replace(path)

    def supervisor(self) -> psutil.Process:
        """Return the process that keeps the components up."""
        for process in self.processes():
            words = process.cmdline()
            if "up" in words and str(self.data_dir) in words and "--detach" not in words:
                return process
        raise AssertionError("no supervisor runs")

    def kill(self, component: str) -> list[int]:
        """Kill the processes of a component with -9; return their ids."""
        pids = self.pids(component)
        assert pids, f"{component} has no process"
        kill(pids)
        return pids

    def _endpoint(self, component: str) -> str:
        return endpoints(self.data_dir)[component]

    @property
    def kafka_bootstrap(self) -> str:
        """Bootstrap servers of Kafka."""
        return self._endpoint("kafka")

    @property
    def registry_url(self) -> str:
        """Base URL of the Confluent-compatible schema API."""
        endpoint = self._endpoint("registry")
        return endpoint if "/apis/" in endpoint else f"{endpoint}/apis/ccompat/v7"

    @property
    def triton_http_url(self) -> str:
        """Triton's HTTP address."""
        return self._endpoint("triton")

    @property
    def triton_grpc_url(self) -> str:
        """Triton's gRPC address, host:port: one above HTTP."""
        host, port = self.triton_http_url.removeprefix("http://").rsplit(":", 1)
        return f"{host}:{int(port) + 1}"

    @property
    def model_server(self) -> ModelServer:
        """Triton's gRPC address and its live model repository."""
        return ModelServer(self.triton_grpc_url, self.models_dir)

    @property
    def gateway_url(self) -> str:
        """Address of the REST gateway."""
        return self._endpoint("gateway")

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return self._endpoint("mlflow")

    @property
    def models_dir(self) -> Path:
        """Triton's live model repository."""
        return self.data_dir / "models"

    @property
    def run_dir(self) -> Path:
        """Folder of facts about running processes."""
        return self.data_dir / "run"

    @property
    def feast_dir(self) -> Path:
        """Root of the feature stores, one folder per pipeline."""
        return self.data_dir / "feast"

    def processes(self) -> list[psutil.Process]:
        """Return every process that names the data directory, as an argument or a variable."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._owns(p)]

    def left(self) -> list[str]:
        """Return the commands of these processes."""
        return [" ".join(process.cmdline())[:200] for process in self.processes()]

    def _owns(self, process: psutil.Process) -> bool:
        mark = str(self.data_dir)
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:  # gone, or another user's
            return False
        return any(mark in word for word in words)


START_S: Final = 120.0


@contextmanager
def infrastructure(data_dir: Path, offset: int, *names: str) -> Iterator[Stack]:
    """Run the named components for the time of the block, all by default; wait until ready.

    Kafka, the registry, Triton, Ray and MLflow.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir / "infrastructure.txt"
    own = {name: value for name, value in os.environ.items() if not is_setting(name)}
    command = [sys.executable, "-m", "penstock_stack", str(data_dir), str(offset), *names]
    with child(command, own, log):
        eventually(lambda: "ready:" in log.read_text(), START_S, "the infrastructure is up")
        yield Stack(data_dir)


PORT_OFFSETS: Final = range(15_000, 22_300, 808)
"""No port of one is a port of another, and all lie below the ports of outgoing connections."""
TURN_S: Final = 300.0


def free_offset() -> int:
    """Return an offset at which no port of a stack is taken, so that two runs share a machine.

    It is this process's until it ends: its ports are still free when another looks at them.
    """
    for offset in PORT_OFFSETS:
        if claimed(offset) and not any(taken(port) for port in ports_at(offset)):
            return offset
    raise RuntimeError(f"every offset of {PORT_OFFSETS} is claimed or has a taken port")


def ports_at(offset: int) -> set[int]:
    """Return every port that a stack at an offset may bind."""
    endpoints = Endpoints.from_environment({}, offset)
    return {port for name in endpoints.ports for port in endpoints.span(name)}


def claimed(offset: int) -> bool:
    """Tell whether an offset is this process's now; no other gets it while the process lives."""
    try:
        _locked(f"offset-{offset}")
    except BlockingIOError:
        return False
    return True


def taken(port: int) -> bool:
    """Tell whether something listens on a local port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def a_stack_starts() -> Iterator[None]:
    """Wait until no other run starts a stack: on two cores two take four times as long as one."""
    lock = eventually(lambda: _locked("start"), TURN_S, "another run's stack has started")
    try:
        yield
    finally:
        os.close(lock)


def _locked(what: str) -> int:
    """Return an open file that is locked until it is closed.

    Raises
    ------
    BlockingIOError
        If another has it locked.
    """
    file = os.open(Path(tempfile.gettempdir(), f"penstock-test-{what}"), os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    return file


PORTS: Final = (11_000, 15_000)
BROKER_STOP_S: Final = 30.0
PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{behind},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{proxied}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=6
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=6
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=3
group.initial.rebalance.delay.ms=0
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
"""
LOGGING: Final = """\
status = warn
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = STDOUT
appender.stdout.type = Console
appender.stdout.name = STDOUT
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
"""


def free_port() -> int:
    """Return a port that nothing listens on; it is this process's until it ends.

    None that the kernel gives to outgoing connections: it must be free again after a bounce. Drawn
    apart from the tests' seeds, with which each test would draw the same.
    """
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):  # also if another run has claimed it
            _locked(f"port-{port}")
            probe.bind((HOST, port))
            return port


@dataclass
class Broker:
    """One broker, also a controller.

    Parameters
    ----------
    proxied
        Port that clients of the listener at ``behind`` are told to use.
    """

    node: int
    home: Path
    port: int = field(default_factory=free_port)
    behind: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)
    proxied: int = 0
    process: subprocess.Popen[bytes] | None = None

    def prepare(self, voters: str, replicas: int, properties: str) -> None:
        """Write the configuration and format the log directory."""
        self.home.mkdir(parents=True)
        (self.home / "log4j2.properties").write_text(LOGGING)
        text = PROPERTIES.format(
            node=self.node,
            voters=voters,
            host=HOST,
            port=self.port,
            behind=self.behind,
            controller=self.controller,
            proxied=self.proxied or self.behind,
            data=self.home / "data",
            replicas=replicas,
            in_sync=max(1, replicas - 1),
        )
        (self.home / "server.properties").write_text(text + properties)
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID]
        command = [*self._java(), *tool, "--config", str(self.home / "server.properties")]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S)

    def start(self) -> None:
        """Start the process and wait for nothing."""
        options = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        command = [*self._java(options), "kafka.Kafka", str(self.home / "server.properties")]
        with (self.home / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def await_answer(self) -> None:
        """Wait until it answers."""
        eventually(lambda: kafka_answers(self.port), START_S, f"broker {self.node} answers")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process and wait for that; SIGTERM hands leadership over first."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(BROKER_STOP_S)
            self.process = None

    @property
    def pids(self) -> list[int]:
        """Its process, for `harness.faults.frozen`."""
        assert self.process is not None
        return [self.process.pid]

    def _java(self, options: Sequence[str] = ()) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.home / 'log4j2.properties'}"
        jars = os.pathsep.join(map(str, kafka_classpath(cache_dir(os.environ))))
        return [java(), *options, logging, "-cp", jars]


class ModelServer(NamedTuple):
    """Where a model server answers, and the repository it loads from."""

    grpc: str
    models_dir: Path


class Cluster:
    """Brokers of one cluster, which run in a ``with`` block.

    Every topic has as many replicas as there are brokers.

    Parameters
    ----------
    proxied
        Port of a proxy in front of the only broker's second listener.
    properties
        More lines of ``server.properties``.
    """

    def __init__(
        self, root: Path, brokers: int = 1, proxied: int = 0, properties: str = ""
    ) -> None:
        self.brokers = [Broker(n, root / str(n), proxied=proxied) for n in range(1, brokers + 1)]
        voters = ",".join(f"{b.node}@{HOST}:{b.controller}" for b in self.brokers)
        for broker in self.brokers:
            broker.prepare(voters, brokers, properties)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers."""
        return ",".join(f"{HOST}:{broker.port}" for broker in self.brokers)

    def start(self) -> None:
        """Start what is down and wait until it answers."""
        for broker in self.brokers:
            if broker.process is None:
                broker.start()
        for broker in self.brokers:
            broker.await_answer()

    def close(self) -> None:
        """Kill all brokers."""
        for broker in self.brokers:
            broker.stop(signal.SIGKILL)
