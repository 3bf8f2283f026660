"""The ledger's sqlite database: what was read, one table per kind of fact."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final, Literal

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

TABLES: Final = """
CREATE TABLE topic (role TEXT PRIMARY KEY, name TEXT NOT NULL);
-- What each partition held: records before `start` are outside the window; `high` and `stable` are
-- the ends of the read_uncommitted and the read_committed view.
CREATE TABLE span (role TEXT, partition INTEGER, start INTEGER, high INTEGER, stable INTEGER,
                   PRIMARY KEY (role, partition)) WITHOUT ROWID;
-- The read_committed view. From origin_partition on: what an output says of its event, NULL for
-- events, for outputs that say nothing, and for those of events before the window.
CREATE TABLE record (role TEXT, partition INTEGER, offset INTEGER, key INTEGER, value INTEGER,
                     timestamp_ms INTEGER, headers TEXT,
                     origin_partition INTEGER, origin_offset INTEGER, event_id INTEGER,
                     features INTEGER, predicted_at INTEGER, model TEXT, version TEXT,
                     variant TEXT, attempt TEXT, outcome TEXT, scores INTEGER,
                     decision INTEGER,
                     PRIMARY KEY (role, partition, offset)) WITHOUT ROWID;
-- The read_uncommitted view, and what a read_committed reader saw while the faults happened.
CREATE TABLE uncommitted (role TEXT, partition INTEGER, offset INTEGER, value INTEGER,
                          PRIMARY KEY (role, partition, offset)) WITHOUT ROWID;
CREATE TABLE live (role TEXT, partition INTEGER, offset INTEGER, value INTEGER,
                   PRIMARY KEY (role, partition, offset)) WITHOUT ROWID;
CREATE TABLE unreadable (role TEXT, partition INTEGER, offset INTEGER, why TEXT);
CREATE TABLE dead_header (role TEXT, partition INTEGER, offset INTEGER, name TEXT, value TEXT,
                          times INTEGER, PRIMARY KEY (role, partition, offset, name)) WITHOUT ROWID;
-- Events that are copies of earlier ones.
CREATE TABLE replay (partition INTEGER, offset INTEGER, of_topic TEXT, of_partition INTEGER,
                     of_offset INTEGER, attempts INTEGER,
                     PRIMARY KEY (partition, offset)) WITHOUT ROWID;
-- Committed offsets before and after the logs were read: the first promise outcomes, the second
-- bound them. Equal on a log at rest.
CREATE TABLE committed (service TEXT, partition INTEGER, offset INTEGER, later INTEGER,
                        PRIMARY KEY (service, partition)) WITHOUT ROWID;
CREATE TABLE counter (service TEXT, outcome TEXT, value INTEGER,
                      PRIMARY KEY (service, outcome)) WITHOUT ROWID;
CREATE TABLE expected (partition INTEGER, offset INTEGER, class TEXT,
                       PRIMARY KEY (partition, offset)) WITHOUT ROWID;
CREATE TABLE fault (name TEXT, ended_ms INTEGER, within_ms INTEGER);
-- The routing states as they lie in the log, one row per version; when a version might answer; when
-- every revision is known, so that a version that is not among them is wrong.
CREATE TABLE routing (offset INTEGER, revision INTEGER, at_ms INTEGER, model TEXT, version TEXT,
                      alias TEXT, weight INTEGER, digest TEXT, state TEXT);
CREATE TABLE reign (model TEXT, version TEXT, variant TEXT, first_revision INTEGER,
                    since_ms INTEGER, until_ms INTEGER);
CREATE TABLE judged (since_ms INTEGER, until_ms INTEGER);
CREATE TABLE known_digest (model TEXT, version TEXT, digest TEXT, PRIMARY KEY (model, version));

CREATE VIEW event AS SELECT * FROM record WHERE role = 'events';
CREATE VIEW output AS SELECT * FROM record WHERE origin_partition IS NOT NULL;
CREATE VIEW feature AS SELECT * FROM output WHERE role = 'features';
CREATE VIEW prediction AS SELECT * FROM output WHERE role = 'predictions';
CREATE VIEW terminal AS
  SELECT * FROM output WHERE role IN ('predictions', 'events_dlq', 'features_dlq');
CREATE VIEW dead AS SELECT * FROM output WHERE role IN ('events_dlq', 'features_dlq');
"""

WINDOW: Final = """
DELETE FROM record WHERE role = 'events' AND EXISTS (
  SELECT 1 FROM span s WHERE s.role = 'events' AND s.partition = record.partition
  AND record.offset < s.start);
UPDATE record SET origin_partition = NULL WHERE origin_partition IS NOT NULL AND EXISTS (
  SELECT 1 FROM span s WHERE s.role = 'events' AND s.partition = record.origin_partition
  AND record.origin_offset < s.start);
CREATE INDEX IF NOT EXISTS record_by_origin ON record (origin_partition, origin_offset, role)
  WHERE origin_partition IS NOT NULL;
ANALYZE;
"""
"""Cuts the log to its window, then indexes it. Outputs go to the partition number of their source,
so that those of the window follow the first one of it."""

PRAGMAS: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA cache_size = -131072; -- KiB: what is looked at often stays, the rest lies on disk
PRAGMA temp_store = FILE;
"""


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
