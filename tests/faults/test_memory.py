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
from harness.clients import avro_encoder, register_schema
from harness.fault_pipeline import FULL, VERDICTS, ServedPipeline
from harness.stack import Cluster
from harness.waiting import Background, eventually
from penstock_schemas.schema_files import schema_text
from scipy.stats import theilslopes

pytestmark = [pytest.mark.integration, pytest.mark.faults]

MILLION = 1_000_000
EVENTS = (20 if not FULL else 40) * MILLION
"""Its noise of some 13 MiB a sample makes the slope over ten million uncertain by 0.8."""
STEP = MILLION // 2
WARM_UP = 2
"""Millions of events that are not judged."""
STEP_S = 120.0
SLOPE_MIB = 1.0
"""Growth allowed per million events after the warm-up."""
CHUNK = 5_000
AHEAD = 200_000
"""Events published and not yet predicted: a backlog, so that the queues are full."""


class Feed:
    """Publishes the same feature vectors again and again, a little ahead of the router.

    Attributes
    ----------
    due
        Events to publish so far; it waits there.
    """

    def __init__(self, pipeline: ServedPipeline, rng: np.random.Generator) -> None:
        self.pipeline = pipeline
        self.sent = self.due = 0
        self.stop = threading.Event()
        topic = pipeline.topics.features
        text = schema_text("feature_vector.avsc")
        encode = avro_encoder(
            text, register_schema(pipeline.addresses.registry, f"{topic}-value", text)
        )
        now = time.time_ns() // 1_000_000
        self._chunk = [
            {
                "value": encode(
                    {
                        "event_id": uuid.UUID(bytes=rng.bytes(16)).hex,
                        "entity_key": f"pump-{row % 20}",
                        "event_time": now,
                        "pipeline": pipeline.name,
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
                "bootstrap.servers": pipeline.addresses.kafka,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 4 * CHUNK,
            }
        )

    def run(self, predicted: Callable[[], int]) -> None:
        """Publish until all is sent."""
        while self.sent < EVENTS and not self.stop.is_set():
            if self.sent >= min(self.due, predicted() + AHEAD):
                self.stop.wait(0.01)
                continue
            self._producer.produce_batch(self.pipeline.topics.features, self._chunk)
            self.sent += CHUNK
            assert self._producer.flush(60) == 0


@pytest.mark.timeout(1500)
def test_memory_does_not_grow_with_events(
    make_cluster: Callable[..., Cluster],
    make_pipeline: Callable[..., ServedPipeline],
    rng: np.random.Generator,
    in_background: Background,
) -> None:
    pipeline = make_pipeline(make_cluster().bootstrap, batching="{commit_interval_ms: 100}")
    window = pipeline.window()
    router = pipeline.started_router(max_transaction_rows=50_000)
    feed = Feed(pipeline, rng)
    done = 0

    def caught_up() -> bool:
        nonlocal done
        done = window.done("inference")
        return done >= feed.due

    def well() -> None:
        feeding.check()
        assert router.process.poll() is None

    feeding = in_background(partial(feed.run, lambda: done))
    process, at_rest, began = psutil.Process(router.pid), [], time.monotonic()
    try:
        for due in range(STEP, EVENTS + 1, STEP):
            feed.due = due
            eventually(caught_up, STEP_S, f"{due} events are predicted", unless=well)
            # What lies in queues comes and goes; what is there at rest is never given back.
            at_rest.append((due / MILLION, process.memory_info().rss / 2**20))
    finally:
        feed.stop.set()
    took_s = time.monotonic() - began
    events, mib = np.array([row for row in at_rest if row[0] >= WARM_UP]).T
    slope = float(theilslopes(mib, events).slope)  # a median: one odd sample does not tilt it
    curve = ", ".join(f"{size:.0f}" for size in mib)
    VERDICTS.append(
        f"RSS over {EVENTS} events: {slope:+.2f} MiB per million after the warm-up, "
        f"at rest every half million {curve} MiB; {EVENTS / took_s:,.0f} events/s"
    )
    assert router.stop() == 0
    assert slope <= SLOPE_MIB
