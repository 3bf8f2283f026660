"""The ledger's sqlite database: what was read, one table per kind of fact."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from penstock_schemas.records import RoutingState

from penstock_ledger.columnar import NO_FACT, FactReader, Facts
from penstock_ledger.decoding import (
    RecordDecoder,
    Unreadable,
    dead_letter_headers,
    dead_letter_origin,
    is_avro,
    replay_of,
)
from penstock_ledger.records import (
    ROLES,
    Counter,
    Fault,
    LedgerTopics,
    RawRecord,
    RecordColumns,
    Role,
    Service,
    digest,
    original_headers,
)
from penstock_ledger.reigns import Tolerance, judged, reigns, rows_of
from penstock_ledger.schema import PRAGMAS, TABLES, WINDOW

DEAD: tuple[Role, ...] = ("events_dlq", "features_dlq")


class Store:
    """A log as read, ready for the queries of `checks`.

    Parameters
    ----------
    topics
        Names of the pipeline's topics.
    path
        Database file, not there yet; in memory by default. A million events take about 0.5 GB.
    """

    def __init__(self, topics: LedgerTopics, path: Path | None = None) -> None:
        self.topics = topics
        self.database = sqlite3.connect(":memory:" if path is None else path)
        self.database.executescript(PRAGMAS + TABLES)
        named = [(role, topics.name(role)) for role in ROLES]
        self._insert("topic", [*named, ("models", topics.models)])
        self._readers: dict[Role, FactReader] = {}

    def close(self) -> None:
        """Close the database."""
        self.database.close()

    def add_span(self, role: Role, partition: int, start: int, high: int, stable: int) -> None:
        """Note the window of a partition: its first offset and its two ends (exclusive)."""
        self._insert("span", [(role, partition, start, high, stable)])

    def add_committed(
        self, service: Service, before: Mapping[int, int], after: Mapping[int, int]
    ) -> None:
        """Note a service's committed offsets per input partition, before and after the read."""
        rows = [(service, p, before.get(p, 0), offset) for p, offset in after.items()]
        self._insert("committed", rows)

    def add_counters(self, counters: Iterable[Counter]) -> None:
        """Note a service's own counts, for I14; without them I14 is not measured."""
        self._insert("counter", [(c.service, c.outcome, c.value) for c in counters])

    def add_expected(self, classes: Iterable[tuple[int, int, str]]) -> None:
        """Note (partition, offset, class) of each event planted as bad; all others are good."""
        self._insert("expected", list(classes))

    def add_faults(self, faults: Iterable[Fault]) -> None:
        """Note faults, for I9; the log must have been read after their time to progress."""
        self._insert("fault", [(f.name, f.ended_ms, round(f.within_s * 1000)) for f in faults])

    def add_routing(
        self, states: Sequence[tuple[int, RoutingState]], tolerance: Tolerance | None = None
    ) -> None:
        """Note the routing states and their offsets, in the order of the log, for I10.

        Parameters
        ----------
        tolerance
            How far clocks and routers may be apart.
        """
        within = tolerance or Tolerance()
        in_order = [state for _, state in states]
        self._insert("routing", [row for at, state in states for row in rows_of(at, state)])
        self._insert("reign", [tuple(reign) for reign in reigns(in_order, within)])
        self._insert("judged", judged(in_order, within))

    def add_known_digests(self, digests: Mapping[tuple[str, str], str]) -> None:
        """Note what the model files of (model, version) have as digests, by another source."""
        self._insert("known_digest", [(*key, value) for key, value in digests.items()])

    def add_sightings(
        self, view: Literal["uncommitted", "live"], role: Role, records: Iterable[RawRecord]
    ) -> None:
        """Note that records were visible in a view; only position and value are kept."""
        rows = [(role, r.partition, r.offset, digest(r.value)) for r in records]
        self._insert(view, rows)

    def add_uncommitted(self, role: Role, batch: RecordColumns) -> None:
        """Note that a batch was visible in the read_uncommitted view."""
        self._fill("uncommitted", role, batch.partitions, batch.offsets, _digests(batch.values))

    def add_committed_records(
        self, role: Role, batch: RecordColumns, decoder: RecordDecoder
    ) -> None:
        """Keep a batch of the read_committed view and the facts it states."""
        if not len(batch):
            return
        facts = self._facts(role, batch, decoder)
        by_name = facts.columns
        self._fill(
            "record",
            role,
            batch.partitions,
            batch.offsets,
            _digests(batch.keys),
            _digests(batch.values),
            batch.timestamps_ms,
            [original_headers(h) if h else h if h is None else "" for h in batch.headers],
            *by_name,
        )
        rows = [
            (role, batch.partitions[row], batch.offsets[row], why) for row, why in facts.unreadable
        ]
        self._insert("unreadable", rows)
        if role in DEAD:
            self._add_headers(role, batch)
        elif role == "events":
            self._add_replays(batch)

    def _facts(self, role: Role, batch: RecordColumns, decoder: RecordDecoder) -> Facts:
        if is_avro(role):
            reader = self._readers.get(role)
            if reader is None:
                reader = self._readers[role] = FactReader(role, self.topics, decoder)
            return reader.facts(batch)
        found = Facts([[None] * len(batch) for _ in NO_FACT])
        for row, headers in enumerate(batch.headers if role in DEAD else ()):
            try:
                place = dead_letter_origin(headers, self.topics)
            except Unreadable as exc:
                found.unreadable.append((row, str(exc)))
            else:
                for column, value in zip(found.columns, place, strict=False):
                    column[row] = value  # type: ignore[index]
        return found

    def _add_headers(self, role: Role, batch: RecordColumns) -> None:
        rows = [
            (role, batch.partitions[row], batch.offsets[row], *header)
            for row, headers in enumerate(batch.headers)
            for header in dead_letter_headers(headers)
        ]
        self._insert("dead_header", rows)

    def _add_replays(self, batch: RecordColumns) -> None:
        found = [(row, replay_of(headers)) for row, headers in enumerate(batch.headers) if headers]
        rows = [
            (
                batch.partitions[row],
                batch.offsets[row],
                *(copy.original or (None, None, None)),
                copy.attempts,
            )
            for row, copy in found
            if copy is not None
        ]
        self._insert("replay", rows)

    def index(self) -> None:
        """Cut the log to its window and build the indexes; called before the queries."""
        self.database.executescript(WINDOW)

    def _fill(self, table: str, role: Role, *columns: Sequence[Any]) -> None:
        rows = zip(repeat(role), *columns, strict=False)
        self.database.executemany(_insert_into(table, len(columns) + 1), rows)

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            self.database.executemany(_insert_into(table, len(rows[0])), rows)


def _insert_into(table: str, width: int) -> str:
    marks = ", ".join("?" * width)
    return f"INSERT INTO {table} VALUES ({marks})"  # noqa: S608 - the names are our own


def _digests(values: Sequence[bytes | None]) -> list[int | None]:
    return [None if value is None else hash(value) for value in values]
