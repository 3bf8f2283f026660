"""A pipeline of a fault test's own, with the real ingest and real routers as bare processes.

`ServedPipeline` is the pipeline and its processes, `FaultWindow` one run on it: what was published,
which faults happened, and the verdict. `in_lanes` runs rounds beside each other, `Rollout` orders
bad versions of the model, `VectorStream` measures the latency of single vectors.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import numpy as np
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from harness.clients import ProducerApp, Published
from harness.judges import LedgerRun, LiveReader, counters
from harness.kafka import delete_topics
from harness.kills import kill_loop
from harness.models import (
    MAX_ROWS,
    MODEL_WIDTH,
    NAME,
    TIMEOUT_S,
    readings,
    serve_tiny_model,
    unserve,
    write_folder,
)
from harness.records import Row
from harness.services import (
    BareRouter,
    ServiceAddresses,
    ServiceProcess,
    counted,
    figures,
    service_settings,
)
from harness.waiting import Background, BackgroundCall, eventually, holds_for
from onnx import TensorProto, helper, numpy_helper
from penstock_ledger import Fault, Report
from penstock_pipelines.loader import load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import Topic
from penstock_streaming import admin
from penstock_streaming.settings import KafkaSettings
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import digest_of

CALL_S: Final = 30.0
START_S: Final = 90.0
"""Until a service is ready on a busy machine, seconds."""
BAD_EVERY: Final = 101
BAD_FORMS: Final = ("truncated", "tombstone")


class ServedPipeline:
    """One pipeline: topics, a model that serves, ingest, routers.

    Parameters
    ----------
    root
        A folder of its own.
    batching
        What pipeline.yaml says of batches: small by default, so that a few thousand events are
        many batches and transactions.
    """

    def __init__(
        self,
        addresses: ServiceAddresses,
        root: Path,
        *,
        partitions: int = 2,
        batching: str = "{max_batch_rows: 400, commit_interval_ms: 50}",
    ) -> None:
        self.addresses = self.router_addresses = addresses
        self.run_dir = root / "run"
        self.name = f"{NAME}-{uuid.uuid4().hex[:8]}"
        folder = write_folder(root).rename(root / self.name)
        text = (folder / "pipeline.yaml").read_text()
        text = text.replace(f"pipeline: {NAME}", f"pipeline: {self.name}")
        text = text.replace("partitions: 2", f"partitions: {partitions}")
        text = text.replace("kind: logistic", "kind: logistic\n  timeout_s: 2.0")
        (folder / "pipeline.yaml").write_text(f"{text}batching: {batching}\n")
        self.loaded = load_pipeline(folder)
        assert len(self.loaded.config.feature_names) == MODEL_WIDTH
        self.topics = self.loaded.config.topic_names
        self._kafka = KafkaSettings(bootstrap_servers=addresses.kafka)
        self._registry = RegistryClient(RegistrySettings(url=addresses.registry))
        self.apply_topics(partitions)
        routing = RoutingTopic(self._kafka, self._registry, self.topics.models, self.name)
        self.served_as = serve_tiny_model(addresses, self.name, routing)
        self.connect()
        self._processes: list[ServiceProcess] = []
        self.routers: list[BareRouter] = []
        self._sent = 0

    def connect(self) -> None:
        """Take a new producer, which knows the topic as it is now."""
        self.producer = ProducerApp(
            self.addresses.kafka,
            self.addresses.registry,
            self.topics.events,
            self.loaded.folder / "event.avsc",
            "pump_id",
        )

    def apply_topics(self, partitions: int) -> None:
        """Make the topics that the two hops use, with so many partitions."""
        admin.apply(self._kafka, self._registry, self._wanted(partitions), {})

    def _wanted(self, partitions: int) -> list[Topic]:
        topics = self.topics
        used = {topics.events, topics.features, topics.predictions, topics.predictions_shadow}
        used |= {topics.models, topics.ingest_state}
        used |= {topics.dead_letter(name) for name in (topics.events, topics.features)}
        return [topic for topic in topics.all(partitions) if topic.name in used]

    def start_ingest(self, others: Sequence[ServedPipeline] = (), **extra: str) -> ServiceProcess:
        """Start the ingest service, for other pipelines too, and wait for nothing."""
        settings = service_settings(
            "ingest",
            kafka=self.addresses.kafka,
            registry=self.addresses.registry,
            pipelines=[pipeline.loaded.folder for pipeline in (self, *others)],
            run_dir=self.run_dir / "ingest",
            FEAST_DIR=self.run_dir / "feast",
            LOOP__SESSION_TIMEOUT_S=6,
            LOOP__MAX_TRANSACTION_ROWS=2000,
        )
        self._processes.append(ServiceProcess("ingest", {**settings, **extra}))
        return self._processes[-1]

    def start_router(self, fail_point: str = "", **loop: Any) -> BareRouter:
        """Start a router and wait for nothing.

        Parameters
        ----------
        loop
            Fields of the loop's settings.
        """
        settings = {"max_transaction_rows": 2000, **loop}
        extra = {
            f"PENSTOCK_INFERENCE_LOOP__{name.upper()}": str(value)
            for name, value in settings.items()
        }
        if fail_point:
            extra |= kill_loop("PENSTOCK_INFERENCE_", fail_point)
        self.routers.append(
            BareRouter(self.router_addresses, self.loaded.folder, self.run_dir, extra)
        )
        return self.routers[-1]

    def route_through(self, kafka: str) -> None:
        """Have the routers that start from now on reach Kafka at another address."""
        self.router_addresses = replace(self.addresses, kafka=kafka)

    def started_router(self, **loop: Any) -> BareRouter:
        """Start a router and wait until it takes records."""
        router = self.start_router(**loop)

        def still_runs() -> None:
            assert router.process.poll() is None, "the router has ended"

        eventually(lambda: router.is_ready, START_S, "the router is ready", unless=still_runs)
        return router

    def window(self) -> LedgerRun:
        """Return a window of the log that begins now."""
        return LedgerRun(self.addresses.kafka, self.addresses.registry, self.name)

    def rows(self, count: int, seed: int) -> Iterator[tuple[Row, str | None]]:
        """Yield events with ids never used before; about one in a hundred is bad."""
        rng, first = random.Random(seed), self._sent
        self._sent += count
        for number, row in enumerate(readings(rng, count)):
            bad = BAD_FORMS[number // BAD_EVERY % 2] if number % BAD_EVERY == 7 else None
            yield row | {"event_id": f"e{first + number}"}, bad

    def publish(
        self, count: int, seed: int, published: Published | None = None, rate: float | None = None
    ) -> Published:
        """Publish events as a foreign producer does and wait for their delivery."""
        return self.producer.publish(self.rows(count, seed), published or Published(), rate)

    def close(self) -> None:
        """End all processes, unload the model and delete the topics."""
        for router in self.routers:
            router.end()
        for process in self._processes:
            process.end()
        unserve(self.addresses, self.served_as)
        delete_topics(self.addresses.kafka, [topic.name for topic in self._wanted(1)])


def now_ms() -> int:
    """Return the time of the records' timestamps."""
    return time.time_ns() // 1_000_000


SESSION_S: Final = 6.0
TRANSACTION_S: Final = 10.0
SWEEP_S: Final = 1.0
"""Between two looks of a broker for timed-out transactions."""
PROGRESS_S: Final = TRANSACTION_S + SWEEP_S + SESSION_S + 30.0
"""Time from the end of a fault to progress of every partition, seconds."""
DRAIN_S: Final = 120.0
VERDICTS: Final[list[str]] = []
"""What was judged in this run of pytest, with its seeds: printed at the end."""
FULL: Final = os.environ.get("FULL") == "1"


class FaultWindow:
    """Opens a window of the log with a concurrent read_committed reader; judges it at the end.

    Parameters
    ----------
    name
        Of the fault, for the line that is printed.
    seed
        Of the events and the faults.
    """

    def __init__(self, pipeline: ServedPipeline, name: str, seed: int) -> None:
        self.pipeline, self.name, self.seed = pipeline, name, seed
        self.run = pipeline.window()
        self.published = Published()
        self.faults: list[Fault] = []
        self._live = LiveReader(self.run)
        self._began = time.monotonic()
        self._turn = 0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.note(f"seed {self.seed}, after faults {self.faults}: {kind}")
            for router in self.pipeline.routers:
                router.show_stacks()
            self._live.__exit__(kind, error, trace)

    @property
    def age_s(self) -> float:
        """Seconds since the window was opened."""
        return time.monotonic() - self._began

    def note(self, what: str) -> None:
        """Print what happened and when; shown with a failed test, or with -rP."""
        print(f"{self.name} {self.age_s:6.1f} s  {what}", flush=True)  # noqa: T201

    def publish(self, count: int, rate: float | None = None) -> None:
        """Publish events and wait for their delivery."""
        self._turn += 1
        self.pipeline.publish(count, self.seed + self._turn, self.published, rate)

    def publishing(self, background: Background, chaos_s: float, rate: float) -> BackgroundCall:
        """Publish in the background while faults go on for some time, and a little longer."""
        return background(partial(self.publish, int((chaos_s + 5.0) * rate), rate))

    def ended(self, fault: str) -> None:
        """Note that a fault is over: from now on there must be progress in time."""
        self.faults.append(Fault(fault, now_ms(), PROGRESS_S))

    def judge(self, *, counted: bool = False, skip: tuple[str, ...] = ()) -> Report:
        """Wait until all is worked off, read the window, and assert that every event is right.

        Parameters
        ----------
        counted
            Whether the routers' counters must equal the log. They cannot where one was killed
            between a commit and its count, or was not told how a commit ended.
        skip
            Invariants that the fault breaks by design.
        """
        self.run.drain(DRAIN_S)
        drained_s = self.age_s
        self._live.__exit__(None, None, None)
        pipeline, topic = self.pipeline, self.pipeline.topics.features
        counts = counters("inference", topic, {}, figures(pipeline.run_dir)) if counted else []
        report = self.run.report(
            self.published, counts, live=self._live.seen, skip=skip, faults=self.faults
        )
        violations = sum(finding.count for finding in report.findings)
        verdict = (
            f"seed {self.seed}: {report.events} events, {len(self.faults)} faults, "
            f"{violations} violations, {len(report.held)} invariants hold, "
            f"aborted {report.aborted}, drained at {drained_s:.1f} s"
        )
        self.note(verdict)
        VERDICTS.append(f"{self.name}, {verdict}")
        assert report.ok, str(report)
        assert report.drained, str(report)
        assert report.events == self.published.events
        assert report.predictions == self.published.good
        assert sum(report.dead_letters.values()) == len(self.published.bad)
        return report


def await_ready(routers: Sequence[BareRouter]) -> None:
    """Wait until routers take records."""
    for router in routers:
        eventually(lambda r=router: r.is_ready, START_S, "the router is ready")  # type: ignore[misc]


Round = TypeVar("Round")


def in_lanes(
    pipelines: Sequence[ServedPipeline],
    rounds: Sequence[Round],
    play: Callable[[ServedPipeline, Round], None],
) -> None:
    """Play all rounds, one lane per pipeline.

    A lane ends at its first failure; the first of all is raised when every lane has ended.
    """

    def lane(number: int) -> None:
        for turn in rounds[number :: len(pipelines)]:
            play(pipelines[number], turn)

    with ThreadPoolExecutor(len(pipelines)) as pool:
        for done in [pool.submit(lane, number) for number in range(len(pipelines))]:
            done.result()


MEBIBYTE = 1024 * 1024
QUIET_S = 2.5
"""Time in which a service that works would have committed something."""


@contextmanager
def seen_through(pipeline: ServedPipeline, **addresses: str) -> Iterator[None]:
    """Give services that are started in the block other addresses than the test's own."""
    real, routers = pipeline.addresses, pipeline.router_addresses
    pipeline.addresses = replace(real, **addresses)  # type: ignore[arg-type]
    pipeline.router_addresses = replace(routers, **addresses)  # type: ignore[arg-type]
    try:
        yield
    finally:
        pipeline.addresses, pipeline.router_addresses = real, routers


def registry_behind(pipeline: ServedPipeline, address: str) -> str:
    """Return the registry's URL with another host and port."""
    scheme, _, rest = pipeline.places.registry.partition("://")
    scheme, _, rest = pipeline.addresses.registry.partition("://")
    return f"{scheme}://{address}/{rest.partition('/')[2]}"


def set_timeout(pipeline: ServedPipeline, seconds: float) -> None:
    """Change the deadline of the model in pipeline.yaml; for routers started later."""
    file = pipeline.loaded.folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("timeout_s: 2.0", f"timeout_s: {seconds}"))


def circuit(pipeline: ServedPipeline, state: str) -> bool:
    """Tell whether the circuit of the model is in a state, by the routers' metrics."""
    return counted(pipeline.run_dir, "penstock_model_breaker_state", state=state) >= 1


def rebalances(pipeline: ServedPipeline) -> float:
    """Return how often partitions were given or taken."""
    return counted(pipeline.run_dir, "penstock_rebalances_total")


def resident_mib(router: BareRouter) -> float:
    """Return the memory of a router."""
    return float(psutil.Process(router.pid).memory_info().rss) / MEBIBYTE


def await_standstill(window: FaultWindow) -> int:
    """Wait until inference commits nothing more; return how far it has come."""

    def stands() -> int:
        before = window.run.done("inference")
        threading.Event().wait(QUIET_S)
        return before if window.run.done("inference") == before else 0

    return eventually(stands, 30.0, "inference stands still", every_s=0.0)


def assert_nothing_dies(window: FaultWindow, done: int, seconds: float) -> None:
    """Assert that inference neither goes on nor drains its topic while its model is away."""
    lag = window.run.backlog("inference")
    holds_for(lambda: window.run.done("inference") == done, seconds, "it waits")
    assert window.run.backlog("inference") > lag, "the test sends nothing: it proves nothing"
    assert window.run.count("features_dlq") == 0, "the topic was drained into the dead letters"


END_S: Final = 60.0
TICK_S: Final = 0.001
BATCH_ROWS: Final = 500


@dataclass
class VectorStream:
    """Sends vectors to a pipeline's features topic until it is left; reads what is committed.

    Parameters
    ----------
    rate
        Vectors per second.
    """

    pipeline: ServedPipeline
    rate: float
    sent_at: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds, by event id."""
    seen_at: dict[str, float] = field(default_factory=dict)
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Predictions by event id."""

    def __post_init__(self) -> None:
        self._no_more = threading.Event()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(call,), daemon=True)
            for call in (self._send, self._read)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._no_more.set()
        self._threads[0].join(END_S)
        deadline = time.monotonic() + END_S
        while error is None and not self.is_complete and time.monotonic() < deadline:
            self._stop.wait(0.05)
        self._stop.set()
        self._threads[1].join(END_S)
        if error is None:
            self.still_runs()
            missing = sorted(self.sent_at.keys() - self.answers.keys())
            assert not missing, f"{len(missing)} without an answer: {missing[:5]}"

    @property
    def is_complete(self) -> bool:
        """Tell whether every vector sent has been answered, or the stream has failed."""
        return bool(self._failed) or len(self.answers) >= len(self.sent_at)

    def still_runs(self) -> None:
        """Fail if sender or reader has."""
        assert not self._failed, f"the stream failed: {self._failed!r}"

    def latencies_ms(self, since: float, until: float) -> np.ndarray:
        """Return what vectors sent in a span waited for their prediction, milliseconds."""
        return np.array(
            [
                (self.seen_at[event] - sent) * 1000
                for event, sent in self.sent_at.items()
                if since <= sent < until
            ]
        )

    def p99_ms(self, since: float, until: float) -> float:
        """Return the 99th percentile of the latencies of a span."""
        return float(np.percentile(self.latencies_ms(since, until), 99))

    def _guarded(self, call: Any) -> None:
        try:
            call()
        except BaseException as exc:
            self._failed.append(exc)

    def _send(self) -> None:
        pipeline = self.pipeline
        registry = RegistryClient(RegistrySettings(url=pipeline.addresses.registry))
        topic, text = pipeline.topics.features, schema_text("feature_vector.avsc")
        schema_id = registry.register(f"{topic}-value", text)
        partitions = pipeline.loaded.config.partitions
        producer = Producer({"bootstrap.servers": pipeline.addresses.kafka, "linger.ms": 0})
        start, count = time.monotonic(), 0
        while not self._no_more.wait(TICK_S):
            for number in range(count, int((time.monotonic() - start) * self.rate)):
                event = f"s{number}"
                record = {
                    "event_id": event,
                    "entity_key": f"k{number}",
                    "event_time": time.time_ns() // 1_000_000,
                    "pipeline": pipeline.name,
                    "origin": {"topic": "none", "partition": 0, "offset": number},
                    "features": [number % 7 / 7] * MODEL_WIDTH,
                }
                self.sent_at[event] = time.monotonic()
                key = f"k{number}".encode()
                value = encode_one(text, schema_id, record)
                producer.produce(topic, value, key, number % partitions)
                count = number + 1
            producer.poll(0)
        assert producer.flush(END_S) == 0

    def _read(self) -> None:
        topic, text = self.pipeline.topics.predictions, schema_text("prediction.avsc")
        consumer = Consumer(
            {
                "bootstrap.servers": self.pipeline.addresses.kafka,
                "group.id": "reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        partitions = range(self.pipeline.loaded.config.partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        try:
            while not self._stop.is_set():
                first = consumer.poll(0.05)
                rest = consumer.consume(BATCH_ROWS, 0) if first is not None else []
                now = time.monotonic()
                for message in [first, *rest] if first is not None else []:
                    assert message.error() is None, message.error()
                    said = decode_one(message.value() or b"", lambda _: text, text)
                    self.seen_at.setdefault(said["event_id"], now)
                    self.answers.setdefault(said["event_id"], []).append(said)
        finally:
            consumer.close()


KINDS: Final = ("not a number", "does not load", "other width", "two scores")


def bad_model(kind: str) -> tuple[int, bytes]:
    """Return (features it takes, file) of a version that is bad in one of `KINDS`."""
    if kind == "does not load":
        return MODEL_WIDTH, b"not a model"
    if kind == "other width":
        return MODEL_WIDTH + 1, _onnx(np.zeros((MODEL_WIDTH + 1, 1), np.float32))
    if kind == "two scores":
        return MODEL_WIDTH, _onnx(np.zeros((MODEL_WIDTH, 2), np.float32))
    return MODEL_WIDTH, _onnx(np.full((MODEL_WIDTH, 1), np.nan, np.float32))


def _onnx(weights: np.ndarray) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["scores"])],
        "bad",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class Rollout:
    """Orders versions of a pipeline's model, as the trigger's job or an operator does."""

    def __init__(self, pipeline: ServedPipeline) -> None:
        self._pipeline = pipeline
        addresses = pipeline.addresses
        self._routing = RoutingTopic(
            KafkaSettings(bootstrap_servers=addresses.kafka),
            RegistryClient(RegistrySettings(url=addresses.registry)),
            pipeline.topics.models,
            pipeline.name,
        )

    def publish(self, kind: str) -> ModelVersion:
        """Put a bad version 2 into the repository, not loaded."""
        pipeline, name = self._pipeline, served_name(self._pipeline.name, "2")
        width, content = bad_model(kind)
        template = find_template(Path(__file__))
        publish(pipeline.addresses.models_dir, Deployment(name, width, MAX_ROWS, content), template)
        return ModelVersion(
            pipeline.name, "2", name, "canary", 0, digest_of(content), "none", "canary"
        )

    def canary(self, version: ModelVersion, weight: int) -> None:
        """Give a version a share of the keys beside the champion."""

        def make(state: RoutingState | None) -> RoutingState:
            assert state is not None
            champion = replace(state.versions[0], weight=100 - weight)
            beside = replace(version, weight=weight)
            return replace(state, revision=state.revision + 1, versions=(champion, beside))

        self._routing.write(make, TIMEOUT_S)

    def champion(self, version: ModelVersion) -> None:
        """Have a version take the place of the champion."""

        def make(state: RoutingState | None) -> RoutingState:
            assert state is not None
            wanted = replace(version, alias="champion", state="serving", weight=100)
            old = [
                replace(v, alias="", state="draining", weight=0)
                for v in state.versions
                if v.version != version.version
            ]
            return replace(state, revision=state.revision + 1, versions=(wanted, *old))

        self._routing.write(make, TIMEOUT_S)

    def close(self) -> None:
        """Unload version 2 and remove its files."""
        unserve(self._pipeline.addresses, served_name(self._pipeline.name, "2"))
