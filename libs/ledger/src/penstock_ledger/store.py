"""The ledger's sqlite database: what was read, one table per kind of fact."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from penstock_ledger.decoding import (
    RecordDecoder,
    Unreadable,
    check_topic,
    dead_letter_headers,
)
from penstock_ledger.records import (
    ROLES,
    Counter,
    LedgerTopics,
    RawRecord,
    Role,
    Service,
    View,
    digest,
    original_headers,
)

SCHEMA: Final = """
CREATE TABLE topic (role TEXT PRIMARY KEY, name TEXT NOT NULL);
-- What each partition held: records before `start` are outside the window; `high` and `stable` are
-- the ends of the read_uncommitted and the read_committed view.
CREATE TABLE span (role TEXT, partition INTEGER, start INTEGER, high INTEGER, stable INTEGER,
                   PRIMARY KEY (role, partition)) WITHOUT ROWID;
CREATE TABLE record (role TEXT, partition INTEGER, offset INTEGER, key BLOB, value BLOB,
                     timestamp_ms INTEGER, headers TEXT,
                     PRIMARY KEY (role, partition, offset)) WITHOUT ROWID;
CREATE TABLE sighting (view TEXT, role TEXT, partition INTEGER, offset INTEGER, value BLOB,
                       PRIMARY KEY (view, role, partition, offset)) WITHOUT ROWID;
-- One row per output record of the read_committed view.
CREATE TABLE outcome (role TEXT, partition INTEGER, offset INTEGER, key BLOB,
                      origin_partition INTEGER, origin_offset INTEGER,
                      attempt TEXT, event_id TEXT, features BLOB, outcome TEXT,
                      PRIMARY KEY (role, partition, offset)) WITHOUT ROWID;
CREATE TABLE unreadable (role TEXT, partition INTEGER, offset INTEGER, why TEXT);
CREATE TABLE dead_header (role TEXT, partition INTEGER, offset INTEGER, name TEXT, value TEXT,
                          times INTEGER, PRIMARY KEY (role, partition, offset, name)) WITHOUT ROWID;
-- Committed offsets before and after the logs were read: the first promise outcomes, the second
-- bound them. Equal on a log at rest.
CREATE TABLE committed (service TEXT, partition INTEGER, offset INTEGER, later INTEGER,
                        PRIMARY KEY (service, partition)) WITHOUT ROWID;
CREATE TABLE counter (service TEXT, outcome TEXT, value INTEGER,
                      PRIMARY KEY (service, outcome)) WITHOUT ROWID;
CREATE TABLE expected (partition INTEGER, offset INTEGER, class TEXT,
                       PRIMARY KEY (partition, offset)) WITHOUT ROWID;

-- The window: events from `start` on, and the outputs that say they come from them.
CREATE VIEW event AS
  SELECT r.* FROM record r JOIN span s ON s.role = 'events' AND s.partition = r.partition
  WHERE r.role = 'events' AND r.offset >= s.start;
CREATE VIEW output AS
  SELECT o.* FROM outcome o JOIN span s ON s.role = 'events' AND s.partition = o.origin_partition
  WHERE o.origin_offset >= s.start;
CREATE VIEW feature AS SELECT * FROM output WHERE role = 'features';
CREATE VIEW terminal AS SELECT * FROM output WHERE role <> 'features';
CREATE VIEW dead AS SELECT * FROM output WHERE role IN ('events_dlq', 'features_dlq');
"""
INDEXES: Final = """
CREATE INDEX IF NOT EXISTS outcome_by_origin ON outcome (origin_partition, origin_offset, role);
ANALYZE;
"""


class Store:
    """A log as read, ready for the queries of `checks`.

    Parameters
    ----------
    topics
        Names of the pipeline's topics.
    path
        Database file; in memory by default.
    """

    def __init__(self, topics: LedgerTopics, path: Path | None = None) -> None:
        self.topics = topics
        self.database = sqlite3.connect(":memory:" if path is None else path)
        self.database.execute("PRAGMA synchronous = OFF")
        self.database.executescript(SCHEMA)
        self._insert("topic", [(role, topics.name(role)) for role in ROLES])

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

    def add_sightings(self, view: View, role: Role, records: Iterable[RawRecord]) -> None:
        """Note that records were visible in a view; only position and value are kept."""
        rows = [(view, role, r.partition, r.offset, digest(r.value)) for r in records]
        self._insert("sighting", rows)

    def add_committed_records(
        self, role: Role, records: Iterable[RawRecord], decoder: RecordDecoder
    ) -> None:
        """Keep records of the read_committed view and the facts they state."""
        kept: list[RawRecord] = list(records)
        self._insert(
            "record",
            [
                (
                    role,
                    r.partition,
                    r.offset,
                    digest(r.key),
                    digest(r.value),
                    r.timestamp_ms,
                    original_headers(r.headers),
                )
                for r in kept
            ],
        )
        self.add_sightings("committed", role, kept)
        if role != "events":
            self._add_facts(role, kept, decoder)
        if role in ("events_dlq", "features_dlq"):
            rows = [
                (role, r.partition, r.offset, *header)
                for r in kept
                for header in dead_letter_headers(r)
            ]
            self._insert("dead_header", rows)

    def _add_facts(self, role: Role, records: list[RawRecord], decoder: RecordDecoder) -> None:
        outcomes: list[tuple[object, ...]] = []
        unreadable: list[tuple[object, ...]] = []
        for r in records:
            try:
                facts = decoder.facts(role, r)
            except Unreadable as exc:
                unreadable.append((role, r.partition, r.offset, str(exc)))
                continue
            wrong = check_topic(facts, self.topics)
            if wrong is not None or facts.origin is None:
                unreadable.append((role, r.partition, r.offset, wrong))
                continue
            _, partition, offset = facts.origin
            outcomes.append(
                (
                    role,
                    r.partition,
                    r.offset,
                    digest(r.key),
                    partition,
                    offset,
                    facts.attempt,
                    facts.event_id,
                    facts.features,
                    facts.outcome,
                )
            )
        self._insert("outcome", outcomes)
        self._insert("unreadable", unreadable)

    def index(self) -> None:
        """Build the indexes; called before the queries."""
        self.database.executescript(INDEXES)

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
