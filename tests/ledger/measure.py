"""How fast a check is, and how much memory it takes, on a log of a real broker.

    python tests/ledger/measure.py --bootstrap-servers … --registry-url … --events 1000000

Fills topics of its own with the log of a correct pipeline (transactions of 750, one of 50
aborted), checks it in a process of its own, and removes the topics.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from penstock_ledger import LedgerTopics, ReadOptions, check_pipeline
from penstock_ledger.records import ROLES
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import ColumnarEncoder, encode_one
from penstock_schemas.schema_files import schema_text
from rollouts import rollout
from synthetic_log import SCHEMA_TEXTS

PARTITIONS = 3
BATCH = 750
ABORT_EVERY = 50
FEATURES = 28
CALL_S = 30.0
CHECK_S = 1_200.0
ORIGIN = pa.struct([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])
KEYS = [f"card-{i:05}".encode() for i in range(2_000)]


class Filler:
    """Writes what a pipeline would have written."""

    def __init__(self, options: ReadOptions, topics: LedgerTopics) -> None:
        self.options, self.topics = options, topics
        self.registry = RegistryClient(RegistrySettings(url=options.registry_url))
        self.encoders = {
            name: ColumnarEncoder(text, self.registry.register(f"{topic}-value", text))
            for name, topic, text in (
                ("features", topics.features, SCHEMA_TEXTS[1]),
                ("predictions", topics.predictions, SCHEMA_TEXTS[2]),
            )
        }
        self.start_ms = time.time_ns() // 1_000_000

    def fill(self, events: int) -> None:
        """Write all topics."""
        (state,) = rollout("steady", self.start_ms)
        text = schema_text("routing_state.avsc")
        number = self.registry.register(f"{self.topics.models}-value", text)
        value = encode_one(text, number, replace(state, pipeline=self.topics.pipeline).to_dict())
        self._produce(self.topics.models, iter([(0, self.topics.pipeline.encode(), value, None)]))
        self._produce(
            self.topics.events,
            (
                (i % PARTITIONS, KEYS[i % 2_000], b"event %010d" % i + b"." * 90, None)
                for i in range(events)
            ),
        )
        per_partition = [len(range(p, events, PARTITIONS)) for p in range(PARTITIONS)]
        for partition, count in enumerate(per_partition):
            ends = self._hop("ingest", partition, count)
            self._hop("inference", partition, ends)

    def _produce(self, topic: str, rows: Iterator[tuple[int, bytes, bytes, Any]]) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self.options.bootstrap_servers,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 500_000,
            }
        )
        for number, (partition, key, value, headers) in enumerate(rows):
            while True:
                try:
                    producer.produce(
                        topic, value, key, partition, headers=headers, timestamp=self.start_ms
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            if number % 1_000 == 0:
                producer.poll(0)
        assert producer.flush(CALL_S) == 0

    def _hop(self, service: str, partition: int, count: int) -> int:
        """Write a service's output of one partition; returns the end of what it wrote."""
        source = self.topics.name(self.topics.input_role(service))  # type: ignore[arg-type]
        bootstrap = self.options.bootstrap_servers
        producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "transactional.id": uuid.uuid4().hex,
                "linger.ms": 5,
                "compression.type": "lz4",
            }
        )
        producer.init_transactions(CALL_S)
        group = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": self.topics.group(service)}  # type: ignore[arg-type]
        )
        origins = range(count) if service == "ingest" else self._origins
        places = range(count) if service == "ingest" else self._places
        self._next, written, made = 0, [], []
        for turn, first in enumerate(range(0, len(origins), BATCH)):
            rows = list(origins[first : first + BATCH])
            if turn % ABORT_EVERY == 0:
                producer.begin_transaction()
                self._send(producer, service, partition, rows)
                assert producer.flush(CALL_S) == 0
                producer.abort_transaction(CALL_S)
                self._next += 1
            producer.begin_transaction()
            offsets = self._send(producer, service, partition, rows)
            position = [TopicPartition(source, partition, places[first + len(rows) - 1] + 1)]
            producer.send_offsets_to_transaction(position, group.consumer_group_metadata(), CALL_S)
            producer.commit_transaction(CALL_S)
            self._next += 1
            written += offsets
            made += rows
        group.close()
        if service == "ingest":
            self._origins, self._places = made, written
        return self._next

    def _send(self, producer: Producer, service: str, partition: int, rows: list[int]) -> list[int]:
        role = "features" if service == "ingest" else "predictions"
        encoder = self.encoders[role]
        values = encoder.encode(self._columns(partition, rows))
        topic = self.topics.features if service == "ingest" else self.topics.predictions
        for origin, value in zip(rows, values, strict=True):
            key = KEYS[(origin * PARTITIONS + partition) % 2_000]
            producer.produce(topic, value, key, partition)
            producer.poll(0)
        offsets = list(range(self._next, self._next + len(rows)))
        self._next += len(rows)
        return offsets

    def _columns(self, partition: int, rows: list[int]) -> pa.RecordBatch:
        n = len(rows)
        stamps = pa.array([self.start_ms] * n).cast(pa.timestamp("ms", "UTC"))
        floats = [[float(row % 97)] * FEATURES for row in rows]
        origin = [{"topic": self.topics.events, "partition": partition, "offset": r} for r in rows]
        every = {
            "event_id": [f"event-{partition}-{row:08}" for row in rows],
            "entity_key": ["card"] * n,
            "event_time": stamps,
            "predicted_at": stamps,
            "pipeline": ["ledger"] * n,
            "model_name": ["fraud"] * n,
            "model_version": ["1"] * n,
            "variant": ["champion"] * n,
            "scores": pa.array([[0.5]] * n, pa.list_(pa.float32())),
            "decision": [False] * n,
            "threshold": pa.array([0.5] * n, pa.float32()),
            "features": pa.array(floats, pa.list_(pa.float32())),
            "origin": pa.array(origin, ORIGIN),
            "attempt": [f"{partition:032}"] * n,
            "outcome": ["predicted"] * n,
        }
        return pa.RecordBatch.from_pydict(every)


def checked(options: ReadOptions, topics: LedgerTopics) -> dict[str, Any]:
    """Check, and return how long it took and what it took."""
    began = time.monotonic()
    report = check_pipeline(topics, options)
    took_s = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    sys.stderr.write(f"{report}\n")
    return {
        "events": report.events,
        "ok": report.ok,
        "aborted": report.aborted,
        "seconds": round(took_s, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "events_per_s": round(report.events / took_s),
        "peak_rss_mib": usage.ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", default="127.0.0.1:9092")
    parser.add_argument("--registry-url", default="http://127.0.0.1:8081/apis/ccompat/v7")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--check", help="a pipeline that is filled already")
    arguments = parser.parse_args()
    options = ReadOptions(arguments.bootstrap_servers, arguments.registry_url, timeout_s=900.0)
    if arguments.check:
        found = checked(options, LedgerTopics.of(arguments.check))
        sys.stdout.write(json.dumps(found) + "\n")
        return
    topics = LedgerTopics.of(f"ledger-{uuid.uuid4().hex[:8]}")
    admin = AdminClient({"bootstrap.servers": options.bootstrap_servers})
    names = [*(topics.name(role) for role in ROLES), topics.models]
    for made in admin.create_topics(
        [NewTopic(n, 1 if n == topics.models else PARTITIONS, 1) for n in names]
    ).values():
        made.result(CALL_S)
    try:
        began = time.monotonic()
        Filler(options, topics).fill(arguments.events)
        sys.stderr.write(f"{topics.pipeline} filled in {time.monotonic() - began:.0f} s\n")
        own = [sys.executable, __file__, "--check", topics.pipeline]
        where = ["--bootstrap-servers", options.bootstrap_servers]
        where += ["--registry-url", options.registry_url]
        subprocess.run([*own, *where], check=True, timeout=CHECK_S)
    finally:
        if "PENSTOCK_KEEP" not in os.environ:
            for gone in admin.delete_topics(names).values():
                gone.result(CALL_S)


if __name__ == "__main__":
    main()
