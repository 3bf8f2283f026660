"""A log in memory as a reader would find it on the broker, for testing the checker."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
from penstock_ledger import Counter, Fault, LedgerTopics, RawRecord, RecordColumns, Store
from penstock_ledger.decoding import PREFIX, RecordDecoder
from penstock_ledger.records import ROLES, Role
from penstock_schemas.records import RoutingState

SCHEMAS = Path(__file__).parents[2] / "schemas" / "penstock_schemas"
SCHEMA_IDS = {"features": 1, "predictions": 2}
SCHEMA_TEXTS = {
    1: (SCHEMAS / "feature_vector.avsc").read_text(),
    2: (SCHEMAS / "prediction.avsc").read_text(),
}
PARSED = {number: fastavro.parse_schema(json.loads(text)) for number, text in SCHEMA_TEXTS.items()}
TOPICS = LedgerTopics.of("fraud")


def frame(role: Role, value: dict[str, Any]) -> bytes:
    """Encode a FeatureVector or a Prediction in Confluent framing."""
    schema_id = SCHEMA_IDS[role]
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED[schema_id], value)
    return PREFIX.pack(0, schema_id) + stream.getvalue()


def unframe(role: Role, value: bytes | None) -> dict[str, Any]:
    """Decode what `frame` encoded, for a mutation to change."""
    assert value is not None
    decoded = fastavro.schemaless_reader(
        io.BytesIO(value[PREFIX.size :]), PARSED[SCHEMA_IDS[role]], None
    )
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
    faults: list[Fault] = field(default_factory=list)
    routing: list[tuple[int, RoutingState]] = field(default_factory=list)
    digests: dict[tuple[str, str], str] = field(default_factory=dict)
    """What the model files have, by another source."""

    def next_offset(self, role: Role, partition: int) -> int:
        """Take the next offset of a partition."""
        offset = self.end.get((role, partition), 0)
        self.end[role, partition] = offset + 1
        return offset

    def of(self, role: Role, partition: int) -> list[RawRecord]:
        """Return the visible records of a partition."""
        return [r for r in self.records[role] if r.partition == partition]

    def to_store(self) -> Store:
        """Load the log as the reader would."""
        store = Store(TOPICS)
        decoder = RecordDecoder(lambda number: SCHEMA_TEXTS[number])
        for role in ROLES:
            batch = RecordColumns.of(self.records[role])
            store.add_committed_records(role, batch, decoder)
            store.add_uncommitted(role, batch)
        for role, record in self.aborted:
            store.add_sightings("uncommitted", role, [record])
        for role, record in self.unseen:
            store.add_committed_records(role, RecordColumns.of([record]), decoder)
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
        store.add_faults(self.faults)
        store.add_routing(self.routing)
        store.add_known_digests(self.digests)
        return store
