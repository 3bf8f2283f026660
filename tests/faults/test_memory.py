"""A router's memory over millions of events: flat."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from functools import partial

import numpy as np
import psutil
import pytest
from confluent_kafka import Producer
from harness.background import Background
from harness.broker import Cluster
from harness.fault_window import FULL, VERDICTS
from harness.fault_world import FaultWorld
from harness.producer_app import avro_encoder, register_schema
from penstock_schemas.schema_files import schema_text

pytestmark = [pytest.mark.integration, pytest.mark.faults]

MILLION = 1_000_000
EVENTS = (7 if not FULL else 20) * MILLION
WARM_UP = 2 * MILLION
SLOPE_MIB = 1.0
"""Growth allowed per million events after the warm-up."""
CHUNK = 5_000
AHEAD = 200_000
"""Events published and not yet predicted: a backlog, so that the queues are full."""


class Feed:
    """Publishes the same feature vectors again and again, a little ahead of the router."""

    def __init__(self, world: FaultWorld, rng: np.random.Generator) -> None:
        self.world = world
        self.sent = 0
        self.stop = threading.Event()
        topic = world.topics.features
        text = schema_text("feature_vector.avsc")
        encode = avro_encoder(text, register_schema(world.places.registry, f"{topic}-value", text))
        now = time.time_ns() // 1_000_000
        self._chunk = [
            {
                "value": encode(
                    {
                        "event_id": uuid.UUID(bytes=rng.bytes(16)).hex,
                        "entity_key": f"pump-{row % 20}",
                        "event_time": now,
                        "pipeline": world.name,
                        "origin": None,
                        "features": rng.normal(5.0, 2.0, 4).tolist(),
                    }
                ),
                "key": b"pump-%d" % (row % 20),
            }
            for row in range(CHUNK)
        ]
        self._producer = Producer(
            {
                "bootstrap.servers": world.places.kafka,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 4 * CHUNK,
            }
        )

    def run(self, predicted: Callable[[], int]) -> None:
        """Publish until all is sent."""
        while self.sent < EVENTS and not self.stop.is_set():
            if self.sent - predicted() > AHEAD:
                self.stop.wait(0.01)
                continue
            self._producer.produce_batch(self.world.topics.features, self._chunk)
            self.sent += CHUNK
            assert self._producer.flush(60) == 0


@pytest.mark.timeout(1500)
def test_memory_does_not_grow_with_events(
    make_cluster: Callable[..., Cluster],
    make_world: Callable[..., FaultWorld],
    rng: np.random.Generator,
    in_background: Background,
) -> None:
    world = make_world(make_cluster().bootstrap, batching="{commit_interval_ms: 100}")
    window = world.window()
    router = world.started_router(max_transaction_rows=50_000)
    process, samples = psutil.Process(router.pid), []
    feed = Feed(world, rng)
    done = 0
    feeding = in_background(partial(feed.run, lambda: done))
    began, pause = time.monotonic(), threading.Event()
    try:
        while done < EVENTS:
            pause.wait(0.25)
            feeding.check()
            assert router.process.poll() is None
            done = window.done("inference")
            samples.append((done, process.memory_info().rss))
    finally:
        feed.stop.set()
    took_s = time.monotonic() - began
    floor = floors(samples)
    slope = float(np.polyfit(list(floor), list(floor.values()), 1)[0])
    curve = ", ".join(f"{mib:.0f}" for mib in floor.values())
    VERDICTS.append(
        f"RSS over {EVENTS} events: {slope:+.2f} MiB per million after the warm-up, "
        f"least per half million {curve} MiB; {EVENTS / took_s:,.0f} events/s"
    )
    assert router.stop() == 0
    assert slope <= SLOPE_MIB


def floors(samples: list[tuple[int, int]]) -> dict[float, float]:
    """Return the least memory, MiB, in each half million events after the warm-up.

    What lies in queues comes and goes within a transaction; what is never given back does not.
    """
    found: dict[float, float] = {}
    for events, rss in samples:
        if events >= WARM_UP:
            bucket = events // (MILLION // 2) / 2
            found[bucket] = min(found.get(bucket, np.inf), rss / 2**20)
    return found
