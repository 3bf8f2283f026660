"""Seeded logs as a correct pipeline would leave them, in memory, for testing the checker."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fastavro
from penstock_ledger.decoding import PREFIX, RecordDecoder
from penstock_ledger.records import ROLES, Counter, LedgerTopics, RawRecord, Role
from penstock_ledger.store import Store

SCHEMAS = Path(__file__).parents[2] / "schemas" / "penstock_schemas"
SCHEMA_IDS = {"features": 1, "predictions": 2}
SCHEMA_TEXTS = {
    1: (SCHEMAS / "feature_vector.avsc").read_text(),
    2: (SCHEMAS / "prediction.avsc").read_text(),
}
PARSED = {number: fastavro.parse_schema(json.loads(text)) for number, text in SCHEMA_TEXTS.items()}
TOPICS = LedgerTopics.of("fraud")
INGEST_CLASSES = ("decode", "schema", "rule", "oversize")
INFERENCE_CLASSES = ("shape", "model", "poison")


def frame(role: Role, value: dict[str, Any]) -> bytes:
    """Encode a FeatureVector or a Prediction in Confluent framing."""
    schema_id = SCHEMA_IDS[role]
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED[schema_id], value)
    return PREFIX.pack(0, schema_id) + stream.getvalue()


def unframe(role: Role, value: bytes) -> dict[str, Any]:
    """Decode what `frame` encoded, for a mutation to change."""
    decoded = fastavro.schemaless_reader(io.BytesIO(value[PREFIX.size :]), PARSED[SCHEMA_IDS[role]])
    assert isinstance(decoded, dict)
    return decoded


@dataclass
class SyntheticLog:
    """What a reader would find on the broker."""

    seed: int
    records: dict[Role, list[RawRecord]] = field(default_factory=lambda: {r: [] for r in ROLES})
    aborted: list[tuple[Role, RawRecord]] = field(default_factory=list)
    unseen: list[tuple[Role, RawRecord]] = field(default_factory=list)
    """Visible in read_committed only: never in a correct log."""
    live: list[tuple[Role, RawRecord]] = field(default_factory=list)
    start: dict[int, int] = field(default_factory=dict)
    end: dict[tuple[Role, int], int] = field(default_factory=dict)
    stable: dict[tuple[Role, int], int] = field(default_factory=dict)
    ingest: dict[int, int] = field(default_factory=dict)
    inference: dict[int, int] = field(default_factory=dict)
    expected: dict[tuple[int, int], str] = field(default_factory=dict)
    counters: dict[tuple[str, str], int] = field(default_factory=dict)

    def next_offset(self, role: Role, partition: int) -> int:
        """Take the next offset of a partition."""
        offset = self.end.get((role, partition), 0)
        self.end[role, partition] = offset + 1
        return offset

    def to_store(self) -> Store:
        """Load the log as the reader would."""
        store = Store(TOPICS)
        decoder = RecordDecoder(lambda number: SCHEMA_TEXTS[number])
        for role in ROLES:
            store.add_committed_records(role, self.records[role], decoder)
            store.add_sightings("uncommitted", role, self.records[role])
        for role, record in self.aborted:
            store.add_sightings("uncommitted", role, [record])
        for role, record in self.unseen:
            store.add_committed_records(role, [record], decoder)
        for role, record in self.live:
            store.add_sightings("live", role, [record])
        for (role, partition), end in self.end.items():
            start = self.start[partition] if role == "events" else 0
            stable = self.stable.get((role, partition), end)
            store.add_span(role, partition, start, end, stable)
        store.add_committed("ingest", self.ingest, self.ingest)
        store.add_committed("inference", self.inference, self.inference)
        store.add_expected((p, o, name) for (p, o), name in self.expected.items())
        store.add_counters(Counter(s, o, n) for (s, o), n in self.counters.items())  # type: ignore[arg-type]
        return store


class LogBuilder:
    """Plays producer, ingest and inference of one seed."""

    def __init__(self, seed: int, topics: LedgerTopics = TOPICS) -> None:
        self.random = random.Random(seed)
        self.topics = topics
        self.log = SyntheticLog(seed)
        self.attempt = 0

    def build(self) -> SyntheticLog:
        """Return the finished log."""
        for partition in range(3):
            self._produce(partition, self.random.randint(40, 70))
            self._run(partition, "events", self.ingest_one)
            self._run(partition, "features", self.predict_one)
        self._count()
        self.log.live = [
            (role, r)
            for role in ROLES
            for r in self.log.records[role]
            if self.random.random() < 0.3
        ]
        return self.log

    def _produce(self, partition: int, number: int) -> None:
        for role in ROLES:
            self.log.end[role, partition] = self.random.randint(0, 5)
        self.log.start[partition] = self.log.end["events", partition]
        for i in range(number):
            offset = self.log.next_offset("events", partition)
            value: bytes | None = self.random.randbytes(20)
            kind = self.random.random()
            # The first rows are fixed so that every log has something for each mutation.
            if kind < 0.03 or i == 3:
                value = None
            elif kind < 0.13 or i in (5, 6):
                pool = INGEST_CLASSES if i % 2 else INFERENCE_CLASSES
                self.log.expected[partition, offset] = self.random.choice(pool)
            key = f"k{self.random.randrange(6)}".encode() if self.random.random() < 0.97 else None
            headers = (("trace", self.random.randbytes(4)), ("trace", None))[: i % 3]
            self.log.records["events"].append(
                RawRecord(partition, offset, key, value, 1_000_000 + i, headers)
            )

    def _run(self, partition: int, role: Role, process: Any) -> None:
        """Consume a topic in transactions, some of which abort and are repeated."""
        records = [r for r in self.log.records[role] if r.partition == partition]
        left_over = self.random.choice([0, 0, 4])
        todo = records[: len(records) - left_over]
        self.attempt += 1
        while todo:
            batch, todo = todo[: (size := self.random.randint(1, 12))], todo[size:]
            if self.random.random() < 0.3 or (len(batch) > 1 and not self.log.aborted):
                for record in batch[: self.random.randint(1, len(batch))]:
                    for out_role, out in process(record):
                        self.log.aborted.append((out_role, out))
                self._control_records(partition)
                self.attempt += 1
            for record in batch:
                for out_role, out in process(record):
                    self.log.records[out_role].append(out)
            self._control_records(partition)
        offsets = self.log.ingest if role == "events" else self.log.inference
        done = records[: len(records) - left_over]
        offsets[partition] = done[-1].offset + 1 if done else 0

    def _control_records(self, partition: int) -> None:
        for role in ROLES:
            if role != "events" and self.random.random() < 0.5:
                self.log.next_offset(role, partition)

    def ingest_one(self, event: RawRecord) -> list[tuple[Role, RawRecord]]:
        if event.value is None:
            return []
        origin = (event.partition, event.offset)
        kind = self.log.expected.get(origin)
        if kind in INGEST_CLASSES:
            return [("events_dlq", self._dead_letter("events", event, kind, origin))]
        value = frame("features", self._feature_vector(event))
        offset = self.log.next_offset("features", event.partition)
        return [("features", replace(event, offset=offset, value=value, headers=()))]

    def _feature_vector(self, event: RawRecord) -> dict[str, Any]:
        place = {"topic": self.topics.events, "partition": event.partition, "offset": event.offset}
        return {
            "event_id": f"e{event.partition}-{event.offset}",
            "entity_key": (event.key or b"").decode(),
            "event_time": event.timestamp_ms,
            "pipeline": "fraud",
            "origin": place,
            "features": [event.offset / 7.0, 1.0],
        }

    def predict_one(self, feature: RawRecord) -> list[tuple[Role, RawRecord]]:
        assert feature.value is not None
        vector = unframe("features", feature.value)
        origin = (vector["origin"]["partition"], vector["origin"]["offset"])
        kind = self.log.expected.get(origin)
        if kind is not None:
            return [("features_dlq", self._dead_letter("features", feature, kind, origin))]
        vector.pop("entity_key")
        prediction = vector | {
            "predicted_at": vector["event_time"],
            "model_name": "fraud",
            "model_version": "1",
            "variant": "champion",
            "scores": [0.5],
            "decision": False,
            "threshold": 0.5,
            "attempt": f"attempt-{self.attempt}",
            "outcome": "predicted",
        }
        offset = self.log.next_offset("predictions", feature.partition)
        value = frame("predictions", prediction)
        return [("predictions", replace(feature, offset=offset, value=value))]

    def _dead_letter(
        self, role: Role, source: RawRecord, kind: str, origin: tuple[int, int]
    ) -> RawRecord:
        dead: Role = "events_dlq" if role == "events" else "features_dlq"
        texts = {
            "__streams.errors.exception": "DecodeError",
            "__streams.errors.message": "not what it says",
            "__streams.errors.topic": self.topics.name(role),
            "__streams.errors.partition": str(source.partition),
            "__streams.errors.offset": str(source.offset),
            "dlq.service": "ingest" if role == "events" else "inference",
            "dlq.stage": "decode" if role == "events" else "infer",
            "dlq.class": kind,
            "dlq.attempt": "1",
            "dlq.first_failed_at": "2026-01-01T00:00:00Z",
            "dlq.origin": f"{self.topics.events}/{origin[0]}/{origin[1]}",
        }
        added = tuple((name, text.encode()) for name, text in texts.items())
        offset = self.log.next_offset(dead, source.partition)
        return replace(source, offset=offset, headers=source.headers + added)

    def _count(self) -> None:
        log, counters = self.log, self.log.counters
        below = [e for e in log.records["events"] if e.offset < log.ingest[e.partition]]
        counters["ingest", "consumed"] = len(below)
        counters["ingest", "skipped"] = sum(e.value is None for e in below)
        counters["ingest", "features"] = len(log.records["features"])
        counters["inference", "consumed"] = sum(
            f.offset < log.inference[f.partition] for f in log.records["features"]
        )
        counters["inference", "predicted"] = len(log.records["predictions"])
        for service, role in (("ingest", "events_dlq"), ("inference", "features_dlq")):
            for r in log.records[role]:  # type: ignore[index]
                kind = dict(r.headers)["dlq.class"].decode()  # type: ignore[union-attr]
                counters[service, f"dead:{kind}"] = counters.get((service, f"dead:{kind}"), 0) + 1


def build(seed: int) -> SyntheticLog:
    """Return the clean log of a seed."""
    return LogBuilder(seed).build()
