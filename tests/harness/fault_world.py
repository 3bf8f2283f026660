"""A pipeline of a test's own, with the real ingest and real routers as bare processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from harness.bare_router import STOP_S, BareRouter, ServicePlaces
from harness.ledger_run import LedgerRun
from harness.producer_app import ProducerApp, Published
from harness.spoilt import Row
from harness.tiny_model import WIDTH, serve_tiny_model, unserve
from harness.tiny_pipeline import NAME, readings, write_folder
from harness.waiting import eventually
from penstock_pipelines.loader import load_pipeline
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.topics import Topic
from penstock_streaming import admin
from penstock_streaming.settings import KafkaSettings

CALL_S: Final = 30.0
START_S: Final = 90.0
"""Until a service is ready on a busy machine, seconds."""
BAD_EVERY: Final = 101
BAD_FORMS: Final = ("truncated", "tombstone")
ADDRESSES: Final = "PENSTOCK_INGEST_"


class FaultWorld:
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
        places: ServicePlaces,
        root: Path,
        *,
        partitions: int = 2,
        batching: str = "{max_batch_rows: 400, commit_interval_ms: 50}",
    ) -> None:
        self.places = self.router_places = places
        self.run_dir = root / "run"
        self.name = f"{NAME}-{uuid.uuid4().hex[:8]}"
        folder = write_folder(root).rename(root / self.name)
        text = (folder / "pipeline.yaml").read_text()
        text = text.replace(f"pipeline: {NAME}", f"pipeline: {self.name}")
        text = text.replace("partitions: 2", f"partitions: {partitions}")
        text = text.replace("kind: logistic", "kind: logistic\n  timeout_s: 2.0")
        (folder / "pipeline.yaml").write_text(f"{text}batching: {batching}\n")
        self.loaded = load_pipeline(folder)
        assert len(self.loaded.config.feature_names) == WIDTH
        self.topics = self.loaded.config.topic_names
        self._kafka = KafkaSettings(bootstrap_servers=places.kafka)
        self._registry = RegistryClient(RegistrySettings(url=places.registry))
        self.apply_topics(partitions)
        routing = RoutingTopic(self._kafka, self._registry, self.topics.models, self.name)
        self.served_as = serve_tiny_model(places, self.name, routing)
        self.connect()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.routers: list[BareRouter] = []
        self._sent = 0

    def connect(self) -> None:
        """Take a new producer, which knows the topic as it is now."""
        self.producer = ProducerApp(
            self.places.kafka,
            self.places.registry,
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

    def start_ingest(
        self, others: Sequence[FaultWorld] = (), **extra: str
    ) -> subprocess.Popen[bytes]:
        """Start the ingest service, for other worlds too, and wait for nothing."""
        folders = [str(world.loaded.folder) for world in (self, *others)]
        environment = {
            **os.environ,
            f"{ADDRESSES}KAFKA__BOOTSTRAP_SERVERS": self.places.kafka,
            f"{ADDRESSES}REGISTRY__URL": self.places.registry,
            f"{ADDRESSES}PIPELINES": json.dumps(folders),
            f"{ADDRESSES}FEAST_DIR": str(self.run_dir / "feast"),
            f"{ADDRESSES}RUN_DIR": str(self.run_dir / "ingest"),
            f"{ADDRESSES}METRICS_PORT": "0",
            f"{ADDRESSES}LOOP__SESSION_TIMEOUT_S": "6",
            f"{ADDRESSES}LOOP__MAX_TRANSACTION_ROWS": "2000",
            **extra,
        }
        command = [sys.executable, "-m", "penstock_ingest"]
        self._processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
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
            extra["PENSTOCK_FAIL_POINT"] = fail_point
        self.routers.append(BareRouter(self.router_places, self.loaded.folder, self.run_dir, extra))
        return self.routers[-1]

    def route_through(self, kafka: str) -> None:
        """Have the routers that start from now on reach Kafka at another address."""
        self.router_places = replace(self.places, kafka=kafka)

    def started_router(self, **loop: Any) -> BareRouter:
        """Start a router and wait until it takes records."""
        router = self.start_router(**loop)

        def still_runs() -> None:
            assert router.process.poll() is None, "the router has ended"

        eventually(lambda: router.is_ready, START_S, "the router is ready", unless=still_runs)
        return router

    def window(self) -> LedgerRun:
        """Return a window of the log that begins now."""
        return LedgerRun(self.places.kafka, self.places.registry, self.name)

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
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(STOP_S)
        unserve(self.places, self.served_as)
        client = AdminClient({"bootstrap.servers": self.places.kafka})
        names = [topic.name for topic in self._wanted(1)]
        for future in client.delete_topics(names, request_timeout=CALL_S).values():
            future.result(CALL_S)


def now_ms() -> int:
    """Return the time of the records' timestamps."""
    return time.time_ns() // 1_000_000
