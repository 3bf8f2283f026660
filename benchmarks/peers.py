"""The contenders: how each is started, what it writes to, which processes are its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tritonclient.grpc as grpcclient
import workloads
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_stack.endpoints import Endpoints
from penstock_streaming.registry import RegistryClient, RegistrySettings
from penstock_streaming.routing_topic import RoutingTopic
from penstock_streaming.settings import KafkaSettings

Pids = Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contender."""

    output: str
    started: Callable[[], AbstractContextManager[Pids]]


def _own(process: subprocess.Popen[bytes], log: Path, more: Pids = list) -> Pids:
    """Return a contender's processes; asking for them fails once the contender has ended."""

    def pids() -> list[int]:
        if process.poll() is not None:
            raise RuntimeError(f"exited with {process.returncode}: {log.read_text()[-800:]}")
        return [process.pid, *more()]

    return pids


@contextmanager
def _process(
    argv: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as sink:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


class BareLoop:
    """The hand-written loop: consume, fastavro, onnxruntime, fastavro, produce; at least once."""

    def __init__(self, folder: Path, data_dir: Path, bootstrap: str, topic: str) -> None:
        self.script = folder / "p_bare.py"
        self._model = data_dir / "bare" / "model.onnx"
        self._logs = data_dir
        self._environment = {"BOOT": bootstrap, "IN": topic, "MODEL": str(self._model)}
        workloads.write_model(self._model, output="score")

    def run(self, repeat: int) -> Run:
        """Return the run with this number."""
        output = f"bench.bare-{repeat}.v1"
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment = {**self._environment, **one_thread, "OUT": output, "GROUP": output}

        @contextmanager
        def started() -> Iterator[Pids]:
            argv = [sys.executable, str(self.script)]
            log = self._logs / f"{output}.log"
            with _process(argv, environment, log) as process:
                yield _own(process, log)

        return Run(output, started)


class Penstock:
    """The inference service as deployed: Serve replica, Triton, transactions, whole Prediction."""

    input_topic = "bench.features.v1"
    served_as = "bench__1"

    def __init__(self, data_dir: Path, endpoints: Endpoints) -> None:
        self._data_dir = data_dir
        self._endpoints = endpoints
        self._kafka = KafkaSettings(bootstrap_servers=endpoints.address("KAFKA"))
        self._registry_url = endpoints.url("REGISTRY", "/apis/ccompat/v7")
        self._registry = RegistryClient(RegistrySettings(url=self._registry_url))
        self.schema_id = 0

    def prepare(self) -> None:
        """Register the input's schema and load the model into Triton."""
        self.schema_id = self._registry.register(
            f"{self.input_topic}-value", json.dumps(workloads.TXN_SCHEMA)
        )
        model = self._data_dir / "models" / self.served_as
        workloads.write_model(model / "1" / "model.onnx", output="scores")
        template = Path("triton_models/templates/config.pbtxt").read_text(encoding="utf-8")
        for name, value in (
            ("@NAME@", self.served_as),
            ("@FEATURES@", str(workloads.N_FEATURES)),
            ("@MAX_BATCH_SIZE@", "1024"),
        ):
            template = template.replace(name, value)
        (model / "config.pbtxt").write_text(template, encoding="utf-8")
        triton = grpcclient.InferenceServerClient(self._endpoints.address("TRITON_GRPC"))
        triton.load_model(self.served_as, client_timeout=60)

    def run(self, repeat: int) -> Run:
        """Return the run with this number: a pipeline of its own over the same topic."""
        name = f"bench-{repeat}"
        output = f"bench.penstock-{repeat}.v1"
        folder = self._pipeline(name, output)
        self._route(name)
        run_dir = self._data_dir / "run" / name
        prefix = "PENSTOCK_INFERENCE_"
        environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._data_dir / "ray-token"),
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            f"{prefix}KAFKA__BOOTSTRAP_SERVERS": self._endpoints.address("KAFKA"),
            f"{prefix}REGISTRY__URL": self._registry_url,
            f"{prefix}PIPELINES": json.dumps([str(folder)]),
            f"{prefix}TRITON__GRPC_URL": self._endpoints.address("TRITON_GRPC"),
            f"{prefix}FEAST_DIR": str(self._data_dir / "feast"),
            f"{prefix}METRICS_PORT": str(self._endpoints.port("INFERENCE")),
            f"{prefix}GATEWAY_PORT": str(self._endpoints.port("GATEWAY")),
            f"{prefix}RAY_ADDRESS": self._endpoints.address("RAY_GCS"),
            f"{prefix}RUN_DIR": str(run_dir),
        }

        @contextmanager
        def started() -> Iterator[Pids]:
            argv = [sys.executable, "-m", "penstock_inference"]
            log = self._data_dir / f"{name}.log"
            with _process(argv, environment, log) as process:
                yield _own(process, log, lambda: [*self._replicas(run_dir), *self._triton()])

        return Run(output, started)

    def _pipeline(self, name: str, output: str) -> Path:
        folder = self._data_dir / "pipelines" / name
        folder.mkdir(parents=True)
        schema = {**workloads.TXN_SCHEMA, "fields": [f for f in workloads.TXN_SCHEMA["fields"]]}
        fields = [{"name": f"f{i}", "type": "double"} for i in range(workloads.N_FEATURES)]
        schema["fields"] = [*schema["fields"][:4], *fields]
        (folder / "event.avsc").write_text(json.dumps(schema), encoding="utf-8")
        features = "".join(f"  - {{name: f{i}, from: f{i}}}\n" for i in range(len(fields)))
        (folder / "pipeline.yaml").write_text(
            f"pipeline: {name}\n"
            f"topics: {{features: {self.input_topic}, predictions: {output}}}\n"
            "event: {key: entity_id}\n"
            f"features:\n{features}"
            "model: {bootstrap: {data: history.csv}}\n",
            encoding="utf-8",
        )
        # Named because a pipeline needs one; the model here is made, not trained.
        (folder / "history.csv").write_text("label\n", encoding="utf-8")
        return folder

    def _route(self, name: str) -> None:
        version = ModelVersion(
            model_name="bench",
            version="1",
            served_as=self.served_as,
            alias="champion",
            weight=100,
            digest="",
            run_id="",
            state="serving",
        )
        workloads.create_topic(self._kafka.bootstrap_servers, f"{name}.models.v1", partitions=1)
        routing = RoutingTopic(self._kafka, self._registry, f"{name}.models.v1", name)
        now = time.time_ns() // 1_000_000
        routing.write(lambda _: RoutingState(name, 1, now, "bench", (version,)), timeout_s=30)

    @staticmethod
    def _replicas(run_dir: Path) -> list[int]:
        return [int(f.stem) for f in (run_dir / "inference-replicas").glob("*.json")]

    def _triton(self) -> list[int]:
        port = self._endpoints.port("TRITON_GRPC")
        return [
            c.pid
            for c in psutil.net_connections("tcp")
            if c.laddr and c.laddr.port == port and c.status == "LISTEN" and c.pid
        ]
