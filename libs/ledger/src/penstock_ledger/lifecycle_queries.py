"""Progress after faults, I9, and which model answered, I10."""

from __future__ import annotations

from typing import Final

LIVENESS: Final = """
WITH hop AS ( -- each input, when it came, and when its output was written
  SELECT x.name, x.ended_ms, x.within_ms, 'events' AS role, e.partition, e.offset, e.timestamp_ms,
   o.timestamp_ms AS done_ms
  FROM fault x JOIN event e ON e.timestamp_ms <= x.ended_ms AND e.value IS NOT NULL
  LEFT JOIN output o ON o.origin_partition = e.partition AND o.origin_offset = e.offset
   AND o.role IN ('features', 'events_dlq')
  WHERE o.role IS NOT 'events_dlq' -- a dead letter keeps its event's time, a copy its original's
   AND NOT EXISTS (SELECT 1 FROM replay r WHERE r.partition = e.partition AND r.offset = e.offset)
  UNION ALL
  SELECT x.name, x.ended_ms, x.within_ms, 'features', f.partition, f.offset, f.timestamp_ms,
   o.timestamp_ms
  FROM fault x JOIN feature f ON f.timestamp_ms <= x.ended_ms
  LEFT JOIN output o ON o.origin_partition = f.origin_partition
   AND o.origin_offset = f.origin_offset AND o.role IN ('predictions', 'features_dlq')
  WHERE o.role IS NOT 'features_dlq'),
stall AS (
  SELECT name, ended_ms, within_ms, role, partition, min(offset) AS first,
   count(*) AS waiting, min(done_ms) AS next_ms
  FROM hop WHERE done_ms IS NULL OR done_ms > ended_ms
  GROUP BY name, ended_ms, within_ms, role, partition)
SELECT role, partition, first,
 waiting || ' records wait since ' || name || '; the next output came '
 || coalesce(((next_ms - ended_ms) / 1000.0) || ' s after its end', 'never')
 || ', allowed are ' || (within_ms / 1000.0) || ' s'
FROM stall WHERE next_ms IS NULL OR next_ms > ended_ms + within_ms
"""

PROVENANCE: Final = """
SELECT 'predictions', p.partition, p.offset, p.variant || ' ' || p.model || ' version ' || p.version
 || CASE WHEN EXISTS (SELECT 1 FROM reign g WHERE g.model = p.model AND g.version = p.version)
    THEN ' answered at ' || p.predicted_at || ' ms, when no routing state had it so'
    ELSE ' is in no routing state' END
FROM prediction p
WHERE EXISTS (SELECT 1 FROM judged j WHERE p.predicted_at BETWEEN j.since_ms AND j.until_ms)
 AND NOT EXISTS (
  SELECT 1 FROM reign g WHERE g.model = p.model AND g.version = p.version
  AND (g.variant IS NULL OR g.variant = p.variant)
  AND p.predicted_at BETWEEN g.since_ms AND g.until_ms)
"""

SWITCHES: Final = """
WITH step AS (
  SELECT partition, offset, model, version, attempt, lag(version) OVER log AS version_before,
   lag(attempt) OVER log AS attempt_before
  FROM prediction WHERE variant = 'champion'
   AND predicted_at >= (SELECT max(since_ms) FROM judged) -- every revision since is known
  WINDOW log AS (PARTITION BY partition ORDER BY offset)),
run AS (
  SELECT *, lag(version) OVER (PARTITION BY partition, attempt ORDER BY offset) AS before FROM step
  WHERE version_before IS NULL OR version <> version_before OR attempt IS NOT attempt_before),
switch AS (
  SELECT *, row_number() OVER (PARTITION BY partition, attempt, version ORDER BY offset) AS times
  FROM run WHERE before IS NULL OR before <> version)
SELECT 'predictions', partition, offset, 'attempt ' || attempt || ' goes from version ' || before
 || ' to ' || version || ' against the order of the routing states'
FROM switch s
WHERE before IS NOT NULL
 AND EXISTS (SELECT 1 FROM reign g WHERE g.model = s.model AND g.version = s.version)
 AND (times > (SELECT count(*) FROM reign g WHERE g.model = s.model AND g.version = s.version
   AND g.variant = 'champion')
  OR NOT EXISTS (
   SELECT 1 FROM reign now JOIN reign past ON past.model = now.model
    AND past.version = s.before AND past.variant = 'champion'
    AND now.first_revision > past.first_revision
   WHERE now.model = s.model AND now.version = s.version AND now.variant = 'champion'))
"""

ROUTING: Final = """
WITH state AS (SELECT offset, revision, at_ms, sum(weight) AS weight,
  sum(alias = 'champion') AS champions, lag(revision) OVER (ORDER BY offset) AS before
 FROM routing GROUP BY offset, revision, at_ms)
SELECT 'models', 0, offset, 'revision ' || revision || CASE
  WHEN revision <= before THEN ' follows revision ' || before
  WHEN champions > 1 THEN ' has ' || champions || ' champions'
  ELSE ': the weights sum to ' || weight || ', not 100' END
FROM state WHERE revision <= before OR champions > 1 OR weight <> 100
UNION ALL
SELECT 'models', 0, r.offset, r.model || ' version ' || r.version || ' has digest ' || r.digest
 || CASE WHEN k.digest IS NOT NULL THEN ', its file ' || k.digest ELSE ', before ' || f.digest END
FROM routing r
LEFT JOIN known_digest k ON k.model = r.model AND k.version = r.version AND k.digest <> r.digest
LEFT JOIN routing f ON f.model = r.model AND f.version = r.version AND f.offset = (
  SELECT max(offset) FROM routing e WHERE e.model = r.model AND e.version = r.version
  AND e.offset < r.offset)
WHERE k.digest IS NOT NULL OR f.digest <> r.digest
UNION ALL
SELECT 'models', 0, offset, model || ' version ' || version || ' has ' || quote(digest)
 || ', not sha256:<64 hex digits>'
FROM routing
WHERE length(digest) <> 71 OR digest NOT GLOB 'sha256:*' OR substr(digest, 8) GLOB '*[^0-9a-f]*'
"""
