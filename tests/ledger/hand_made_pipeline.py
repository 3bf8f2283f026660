"""A pipeline of a test's own on a real broker: correct, small, with aborted transactions."""

from __future__ import annotations

import json
import random
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import replace

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from penstock_ledger import (
    LedgerTopics,
    LogClient,
    RawRecord,
    ReadOptions,
    Report,
    Store,
    TopicRange,
    check,
    read_pipeline,
)
from penstock_ledger.records import DLQ_ATTEMPT, REPLAY_OF, ROLES, Role, Service
from penstock_schemas.codec import encode_one
from penstock_schemas.schema_files import schema_text
from synthetic import LogBuilder
from synthetic_log import SCHEMA_TEXTS

PARTITIONS = 2
CALL_S = 15.0
FOREVER = 1e18
NOW_MS = time.time_ns() // 1_000_000  # retention deletes records that are dated long ago
Process = Callable[[RawRecord], list[tuple[Role, RawRecord]]]


class HandMadePipeline:
    """Topics of its own and a read-process-write loop over them, with aborts."""

    def __init__(self, bootstrap: str, registry_url: str, seed: int) -> None:
        self.bootstrap = bootstrap
        self.registry_url = registry_url
        self.topics = LedgerTopics.of(f"ledger-{uuid.uuid4().hex[:8]}")
        self.builder = LogBuilder(seed, self.topics, start_ms=NOW_MS)
        self.random = random.Random(seed)
        admin = AdminClient({"bootstrap.servers": bootstrap})
        self.names = [self.topics.name(role) for role in ROLES]
        wanted = [NewTopic(name, PARTITIONS, 1) for name in self.names]
        wanted.append(NewTopic(self.topics.models, 1, 1))
        for future in admin.create_topics(wanted).values():
            future.result(CALL_S)
        self.ids = {
            "features": self._register(self.topics.features, SCHEMA_TEXTS[1]),
            "predictions": self._register(self.topics.predictions, SCHEMA_TEXTS[2]),
        }

    def close(self) -> None:
        """Remove the topics."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.delete_topics([*self.names, self.topics.models]).values():
            future.result(CALL_S)

    def _register(self, topic: str, schema: str) -> bytes:
        url = f"{self.registry_url}/subjects/{topic}-value/versions"
        request = urllib.request.Request(  # noqa: S310
            url,
            json.dumps({"schema": schema}).encode(),
            {"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=CALL_S) as answer:  # noqa: S310
            return int(json.load(answer)["id"]).to_bytes(4, "big")

    def produce_events(self, count: int) -> None:
        """Publish events, good and bad, and tombstones."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        kinds = ["decode", "rule", "model", None, None, None, None, None]
        for i in range(count):
            partition, kind = i % PARTITIONS, self.random.choice(kinds)
            offset = i // PARTITIONS
            if kind is not None:
                self.builder.log.expected[partition, offset] = kind
            value = None if i % 17 == 3 and kind is None else self.random.randbytes(20)
            record = RawRecord(partition, offset, b"k%d" % (i % 5), value, NOW_MS + i)
            self._send(producer, "events", record)
        assert producer.flush(CALL_S) == 0

    def route(self) -> None:
        """Write the routing states that the builder obeys."""
        text = schema_text("routing_state.avsc")
        number = int.from_bytes(self._register(self.topics.models, text), "big")
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for state in self.builder.states:
            value = replace(state, pipeline=self.topics.pipeline).to_dict()
            encoded = encode_one(text, number, value)
            producer.produce(self.topics.models, encoded, self.topics.pipeline.encode())
        assert producer.flush(CALL_S) == 0

    def replay(self, copies: int) -> None:
        """Append copies of the first dead events to the events topic, as a redrive does."""
        producer = Producer({"bootstrap.servers": self.bootstrap})
        client = LogClient(self.bootstrap)
        source = self.topics.events
        end = client.offsets(source, "last", "read_committed")
        read = TopicRange(self.bootstrap, source, dict.fromkeys(end, 0))
        events = [r for b in read.batches("read_committed", end, FOREVER) for r in b]
        expected = self.builder.log.expected
        dead = [e for e in events if (e.partition, e.offset) in expected]
        for event in dead[:copies]:
            place = f"{source}/{event.partition}/{event.offset}".encode()
            headers = ((REPLAY_OF, place), (DLQ_ATTEMPT, b"1"))
            kind = expected[event.partition, event.offset]
            expected[event.partition, end[event.partition]] = kind
            end[event.partition] += 1
            self._send(producer, "events", replace(event, headers=headers))
        assert producer.flush(CALL_S) == 0

    def _send(self, producer: Producer, role: Role, record: RawRecord) -> None:
        value = record.value
        if role in self.ids and value is not None:
            value = value[:1] + self.ids[role] + value[5:]
        producer.produce(
            self.topics.name(role),
            value,
            record.key,
            record.partition,
            timestamp=record.timestamp_ms,
            headers=list(record.headers),
        )

    def run(self, service: Service, leave: int = 0) -> None:
        """Process what a service has not, but the last ``leave`` records, in transactions."""
        role = self.topics.input_role(service)
        process = self.builder.ingest_one if service == "ingest" else self.builder.predict_one
        self.builder.attempt += 1
        source = self.topics.name(role)
        client = LogClient(self.bootstrap)
        end = client.offsets(source, "last", "read_committed")
        done = client.committed(self.topics.group(service), source, stable=True)
        read = TopicRange(self.bootstrap, source, {p: done.get(p, 0) for p in end})
        records = [r for b in read.batches("read_committed", end, FOREVER) for r in b]
        todo = records[: len(records) - leave]
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "transactional.id": uuid.uuid4().hex}
        )
        producer.init_transactions(CALL_S)
        # A consumer that never joins stands for the group, as an assign-based service would.
        group = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.topics.group(service)}
        )
        while todo:
            batch, todo = todo[:9], todo[9:]
            if self.random.random() < 0.4:
                self._transaction(producer, batch[:4], process)
                producer.abort_transaction(CALL_S)
            offsets = self._transaction(producer, batch, process)
            positions = [TopicPartition(source, p, o) for p, o in offsets.items()]
            producer.send_offsets_to_transaction(positions, group.consumer_group_metadata(), CALL_S)
            producer.commit_transaction(CALL_S)
        group.close()

    def commit(self, service: Service, offsets: dict[int, int]) -> None:
        """Commit a service's offsets, whatever it has done."""
        source = self.topics.name(self.topics.input_role(service))
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": self.topics.group(service)}
        )
        positions = [TopicPartition(source, p, o) for p, o in offsets.items()]
        consumer.commit(offsets=positions, asynchronous=False)
        consumer.close()

    def _transaction(
        self, producer: Producer, batch: list[RawRecord], process: Process
    ) -> dict[int, int]:
        producer.begin_transaction()
        for record in batch:
            for role, output in process(record):
                self._send(producer, role, output)
        assert producer.flush(CALL_S) == 0
        return {record.partition: record.offset + 1 for record in batch}

    @property
    def options(self) -> ReadOptions:
        """Where the log is."""
        return ReadOptions(self.bootstrap, self.registry_url, timeout_s=60.0, settle_s=3.0)

    def report(self, start: dict[str, dict[int, int]] | None = None) -> Report:
        """Read everything and check it."""
        store = Store(self.topics)
        read_pipeline(store, replace(self.options, start=start or {}))
        store.add_expected((p, o, kind) for (p, o), kind in self.builder.log.expected.items())
        report = check(store)
        store.close()
        return report
