"""The ledger's reader against a real broker and registry, with real transactions."""

from __future__ import annotations

import json
import random
import time
import urllib.request
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from penstock_ledger import LedgerTopics, RawRecord, ReadOptions, Report, Store, check
from penstock_ledger.log_client import LogClient
from penstock_ledger.reader import read_pipeline
from penstock_ledger.records import ROLES, Role, Service
from penstock_ledger.topic_range import TopicRange
from synthetic import LogBuilder
from synthetic_log import SCHEMA_TEXTS

pytestmark = pytest.mark.integration

PARTITIONS = 2
CALL_S = 15.0
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
        names = [self.topics.name(role) for role in ROLES]
        for future in admin.create_topics([NewTopic(n, PARTITIONS, 1) for n in names]).values():
            future.result(CALL_S)
        self.ids = {
            "features": self._register("features", SCHEMA_TEXTS[1]),
            "predictions": self._register("predictions", SCHEMA_TEXTS[2]),
        }

    def _register(self, role: Role, schema: str) -> bytes:
        url = f"{self.registry_url}/subjects/{self.topics.name(role)}-value/versions"
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
        read = TopicRange(self.bootstrap, source, dict.fromkeys(end, 0))
        records = [r for b in read.batches("read_committed", end, 1e18) for r in b]
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

    def _transaction(
        self, producer: Producer, batch: list[RawRecord], process: Process
    ) -> dict[int, int]:
        producer.begin_transaction()
        for record in batch:
            for role, output in process(record):
                self._send(producer, role, output)
        assert producer.flush(CALL_S) == 0
        return {record.partition: record.offset + 1 for record in batch}

    def report(self, start: dict[str, dict[int, int]] | None = None) -> Report:
        """Read everything and check it."""
        store = Store(self.topics)
        options = ReadOptions(self.bootstrap, self.registry_url, start or {}, 60.0)
        read_pipeline(store, options)
        store.add_expected((p, o, kind) for (p, o), kind in self.builder.log.expected.items())
        report = check(store)
        store.close()
        return report


@pytest.fixture
def pipeline(kafka_bootstrap: str, registry_url: str, seed: int) -> HandMadePipeline:
    return HandMadePipeline(kafka_bootstrap, registry_url, seed)


def test_correct_log_with_aborts_has_no_findings(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(200)
    pipeline.run("ingest", leave=5)
    pipeline.run("inference", leave=7)
    report = pipeline.report()
    assert report.ok, str(report)
    assert report.events == 200
    assert report.pending >= 10
    assert report.aborted["features"] > 0
    assert report.aborted["predictions"] > 0


def test_window_starts_at_the_marks(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(60)
    pipeline.run("ingest")
    marks = LogClient(pipeline.bootstrap).marks(pipeline.topics)
    report = pipeline.report(marks)
    assert report.ok, str(report)
    assert report.events == 0
    assert pipeline.report().events == 60


def test_record_outside_a_transaction_is_found(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(60)
    pipeline.run("ingest")
    pipeline.run("inference")
    assert pipeline.report().drained
    name = pipeline.topics.predictions
    end = LogClient(pipeline.bootstrap).offsets(name, "last", "read_committed")
    read = TopicRange(pipeline.bootstrap, name, dict.fromkeys(end, 0))
    first = next(read.batches("read_committed", end, 1e18))[0]
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    producer.produce(name, first.value, first.key, first.partition)
    assert producer.flush(CALL_S) == 0
    report = pipeline.report()
    assert "I2 no duplicate" in [finding.invariant for finding in report.findings]


def test_open_transaction_is_neither_visible_nor_aborted(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(40)
    pipeline.run("ingest")
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(CALL_S)
    producer.begin_transaction()
    producer.produce(pipeline.topics.predictions, b"open", b"k", 0)
    assert producer.flush(CALL_S) == 0
    report = pipeline.report()
    producer.abort_transaction(CALL_S)
    assert report.ok, str(report)
    assert report.predictions == 0
    assert "predictions" not in report.aborted


def test_message_becomes_raw_record_with_headers(pipeline: HandMadePipeline) -> None:
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    name = pipeline.topics.events
    headers: list[tuple[str, str | bytes | None]] = [("a", b"1"), ("a", b""), ("b", None)]
    producer.produce(name, b"", None, 1, timestamp=NOW_MS, headers=headers)
    assert producer.flush(CALL_S) == 0
    end = LogClient(pipeline.bootstrap).offsets(name, "last", "read_committed")
    read = TopicRange(pipeline.bootstrap, name, dict.fromkeys(end, 0))
    (record,) = next(read.batches("read_committed", end, 1e18))
    assert record == RawRecord(1, 0, None, b"", NOW_MS, (("a", b"1"), ("a", b""), ("b", None)))
