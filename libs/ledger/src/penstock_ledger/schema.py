"""The tables of the ledger's sqlite database."""

from __future__ import annotations

from typing import Final

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
