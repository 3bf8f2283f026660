"""Every invariant: the SQL query that finds what breaks it, its name, and what it means.

Each query returns its offenders as (role, partition, offset, what is wrong): of the event where
the event is known, else of the offending record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_LOSS: Final = """
SELECT 'events', e.partition, e.offset, 'below the committed offset of ingest, and left nothing'
FROM event e JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition
WHERE e.offset < c.offset AND e.value IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = e.partition AND o.origin_offset = e.offset
  AND o.role IN ('features', 'events_dlq'))
UNION ALL
SELECT 'events', f.origin_partition, f.origin_offset,
       'feature vector at ' || f.partition || '/' || f.offset
       || ' below the committed offset of inference, and left nothing'
FROM feature f JOIN committed c ON c.service = 'inference' AND c.partition = f.partition
WHERE f.offset < c.offset AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = f.origin_partition
  AND o.origin_offset = f.origin_offset AND o.role IN ('predictions', 'features_dlq'))
"""

NO_DUPLICATE: Final = """
SELECT 'events', origin_partition, origin_offset,
       count(*) || ' terminal records: ' || group_concat(role || ' ' || partition || '/' || offset)
FROM terminal GROUP BY origin_partition, origin_offset HAVING count(*) > 1
UNION ALL
SELECT 'events', origin_partition, origin_offset,
       'outcomes of ingest: ' || group_concat(role || ' ' || partition || '/' || offset)
FROM output WHERE role IN ('features', 'events_dlq')
GROUP BY origin_partition, origin_offset HAVING count(*) > 1
"""

OFFSET_AGREEMENT: Final = """
SELECT 'events', o.origin_partition, o.origin_offset, o.role || ' of an event that does not exist'
FROM output o WHERE NOT EXISTS (
  SELECT 1 FROM event e WHERE e.partition = o.origin_partition AND e.offset = o.origin_offset)
UNION ALL
SELECT 'events', o.origin_partition, o.origin_offset,
  o.role || ' beyond the committed offset of ingest'
FROM output o LEFT JOIN committed c ON c.service = 'ingest' AND c.partition = o.origin_partition
WHERE o.origin_offset >= coalesce(c.later, 0)
UNION ALL
SELECT 'events', o.origin_partition, o.origin_offset, o.role || ' without a feature vector'
FROM output o WHERE o.role IN ('predictions', 'features_dlq') AND NOT EXISTS (
  SELECT 1 FROM feature f
  WHERE f.origin_partition = o.origin_partition AND f.origin_offset = o.origin_offset)
UNION ALL
SELECT 'events', o.origin_partition, o.origin_offset,
  o.role || ' beyond the committed offset of inference'
FROM output o
JOIN feature f ON f.origin_partition = o.origin_partition AND f.origin_offset = o.origin_offset
LEFT JOIN committed c ON c.service = 'inference' AND c.partition = f.partition
WHERE o.role IN ('predictions', 'features_dlq') AND f.offset >= coalesce(c.later, 0)
UNION ALL
SELECT s.role, c.partition, c.later,
  c.service || ' committed beyond the end of its topic, ' || s.high
FROM committed c JOIN span s ON s.partition = c.partition
 AND s.role = CASE c.service WHEN 'ingest' THEN 'events' ELSE 'features' END
WHERE c.later > s.high
UNION ALL
SELECT 'events', e.partition, e.offset, 'hole: a later event of its partition has an outcome'
FROM event e
JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition AND e.offset < c.offset
JOIN (SELECT origin_partition p, max(origin_offset) last FROM output GROUP BY 1) m
  ON m.p = e.partition AND e.offset < m.last
WHERE e.value IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = e.partition AND o.origin_offset = e.offset)
"""

ORDER: Final = """
SELECT 'events', origin_partition, origin_offset,
       role || ' ' || partition || '/' || offset || ' comes after that of origin ' || earlier
FROM (SELECT *, lag(origin_offset) OVER (PARTITION BY role, partition, key ORDER BY offset) earlier
      FROM output)
WHERE earlier >= origin_offset
"""

PLACEMENT: Final = """
SELECT 'events', origin_partition, origin_offset, role || ' in partition ' || partition
FROM output WHERE partition <> origin_partition
"""

ATOMICITY: Final = """
SELECT c.role, c.partition, c.offset, 'visible, but not in the log'
FROM record c LEFT JOIN uncommitted u ON u.role = c.role
 AND u.partition = c.partition AND u.offset = c.offset
WHERE u.role IS NULL OR u.value IS NOT c.value
UNION ALL
SELECT l.role, l.partition, l.offset, 'seen by the concurrent reader, not visible at the end'
FROM live l LEFT JOIN record c ON c.role = l.role
 AND c.partition = l.partition AND c.offset = l.offset
WHERE c.role IS NULL OR c.value IS NOT l.value
UNION ALL
SELECT c.role, c.partition, c.offset, 'visible beyond the last stable offset ' || s.stable
FROM span s JOIN record c ON s.role = c.role AND s.partition = c.partition
 AND c.offset >= s.stable
"""

FENCING: Final = """
WITH step AS (
  SELECT partition, offset, origin_offset, attempt, lag(attempt) OVER log AS before,
   lag(offset) OVER log AS before_offset,
   max(origin_offset) OVER (log ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS furthest
  FROM prediction WHERE origin_partition = partition
  WINDOW log AS (PARTITION BY partition ORDER BY offset)),
takeover AS (
  SELECT *, row_number() OVER (PARTITION BY partition, attempt ORDER BY offset) AS times
  FROM step WHERE before IS NULL OR attempt IS NOT before)
SELECT 'predictions', partition, offset, 'of attempt ' || attempt || ', after ' || before
 || CASE WHEN origin_offset <= furthest THEN ' had come as far as origin ' || furthest
    ELSE ' had replaced it, and no transaction ends between them' END
FROM takeover
WHERE before IS NOT NULL AND (origin_offset <= furthest
  -- A commit leaves a mark in the log: an attempt that gets its partition back begins behind it.
  OR (times > 1 AND offset = before_offset + 1))
UNION ALL
SELECT 'predictions', partition, offset, 'names no attempt' FROM prediction
WHERE coalesce(attempt, '') = ''
"""

TOMBSTONES: Final = """
SELECT 'events', o.origin_partition, o.origin_offset, 'a tombstone became a record of ' || o.role
FROM output o JOIN event e ON e.partition = o.origin_partition AND e.offset = o.origin_offset
WHERE e.value IS NULL
"""

CONTENT: Final = """
SELECT 'events', o.origin_partition, o.origin_offset,
       o.role || ' ' || o.partition || '/' || o.offset || ': key is not that of its event'
FROM output o JOIN event e ON e.partition = o.origin_partition AND e.offset = o.origin_offset
WHERE o.key IS NOT e.key
UNION ALL
SELECT 'events', p.origin_partition, p.origin_offset,
       'prediction ' || p.partition || '/' || p.offset || ': '
       || CASE WHEN p.event_id <> f.event_id THEN 'event_id' ELSE 'features' END
       || ' is not that of its feature vector'
FROM output p
JOIN feature f ON f.origin_partition = p.origin_partition AND f.origin_offset = p.origin_offset
WHERE p.role = 'predictions' AND (p.event_id <> f.event_id OR p.features IS NOT f.features)
"""

ANSWERS: Final = """
SELECT 'predictions', partition, offset, CASE
  WHEN outcome NOT IN ('predicted', 'expired', 'duplicate') THEN 'outcome ' || quote(outcome)
  WHEN scores < 0 THEN outcome || ', and a score is not a finite number'
  WHEN decision > 1 THEN outcome || ', and the decision is not what score and threshold say'
  ELSE outcome || ', with ' || scores || ' scores' END
FROM prediction
WHERE outcome NOT IN ('predicted', 'expired', 'duplicate') OR scores < 0 OR decision > 1
 OR (outcome = 'predicted') <> (scores > 0)
"""

READABLE: Final = "SELECT role, partition, offset, why FROM unreadable"


DEAD_LETTER_BYTES: Final = """
SELECT 'events', d.origin_partition, d.origin_offset,
  d.role || ' ' || d.partition || '/' || d.offset || ': '
  || CASE WHEN s.offset IS NULL THEN 'its source record does not exist' ELSE
     rtrim(CASE WHEN s.key IS NOT r.key THEN 'key, ' ELSE '' END
     || CASE WHEN s.value IS NOT r.value THEN 'value, ' ELSE '' END
     || CASE WHEN s.timestamp_ms <> r.timestamp_ms THEN 'timestamp, ' ELSE '' END
     || CASE WHEN s.headers <> r.headers THEN 'headers, ' ELSE '' END, ', ')
     || ' differ from the source record' END
FROM dead d
JOIN record r ON r.role = d.role AND r.partition = d.partition AND r.offset = d.offset
LEFT JOIN dead_header hp ON hp.role = d.role AND hp.partition = d.partition
 AND hp.offset = d.offset AND hp.name = '__streams.errors.partition'
LEFT JOIN dead_header ho ON ho.role = d.role AND ho.partition = d.partition
 AND ho.offset = d.offset AND ho.name = '__streams.errors.offset'
LEFT JOIN record s ON s.role = replace(d.role, '_dlq', '')
 AND s.partition = CAST(hp.value AS INTEGER) AND s.offset = CAST(ho.value AS INTEGER)
WHERE s.offset IS NULL OR s.key IS NOT r.key OR s.value IS NOT r.value
 OR s.timestamp_ms <> r.timestamp_ms OR s.headers <> r.headers
"""

DEAD_LETTER_HEADERS: Final = """
SELECT 'events', d.origin_partition, d.origin_offset,
       d.role || ' ' || d.partition || '/' || d.offset || ': ' || h.name || ' '
       || CASE h.times WHEN 1 THEN 'is ' || quote(h.value) ELSE h.times || ' times' END
FROM dead d
JOIN dead_header h ON h.role = d.role AND h.partition = d.partition AND h.offset = d.offset
JOIN topic t ON t.role = replace(d.role, '_dlq', '')
LEFT JOIN feature f ON d.role = 'features_dlq'
 AND f.origin_partition = d.origin_partition AND f.origin_offset = d.origin_offset
WHERE CASE -- schema_id and model are not always known: they may be absent or empty, not twice
  WHEN h.name IN ('dlq.schema_id', 'dlq.model') THEN h.times > 1
   OR (h.name = 'dlq.schema_id' AND coalesce(h.value, '') GLOB '*[^0-9-]*')
  WHEN h.times <> 1 OR h.value IS NULL THEN 1
  WHEN h.name = '__streams.errors.topic' THEN h.value <> t.name
  WHEN h.name = '__streams.errors.partition' THEN h.value <> CAST(d.partition AS TEXT)
  WHEN h.name = '__streams.errors.offset' THEN h.value <> CAST(
    CASE d.role WHEN 'events_dlq' THEN d.origin_offset ELSE coalesce(f.offset, -1) END AS TEXT)
  WHEN h.name = 'dlq.service' THEN
    h.value NOT LIKE '%' || CASE d.role WHEN 'events_dlq' THEN 'ingest' ELSE 'inference' END
  WHEN h.name = 'dlq.class' THEN
    h.value NOT IN ('decode', 'schema', 'rule', 'shape', 'model', 'oversize', 'poison')
  WHEN h.name = 'dlq.stage' THEN
    h.value NOT IN ('decode', 'contract', 'features', 'infer', 'output', 'produce')
  WHEN h.name = 'dlq.attempt' THEN
    h.value = '' OR h.value GLOB '*[^0-9]*' OR CAST(h.value AS INTEGER) < 1
  ELSE h.value = '' END
"""

CLASSES: Final = """
SELECT 'events', e.partition, e.offset,
       'planted as ' || e.class || ', became ' || coalesce(h.value, 'no dead letter')
FROM expected e JOIN event USING (partition, offset)
JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition AND e.offset < c.offset
LEFT JOIN dead d ON d.origin_partition = e.partition AND d.origin_offset = e.offset
LEFT JOIN dead_header h ON h.role = d.role AND h.partition = d.partition AND h.offset = d.offset
 AND h.name = 'dlq.class'
WHERE h.value IS NOT e.class AND NOT EXISTS ( -- its feature vector may still be on its way
  SELECT 1 FROM feature f LEFT JOIN committed i ON i.service = 'inference'
   AND i.partition = f.partition
  WHERE f.origin_partition = e.partition AND f.origin_offset = e.offset
   AND f.offset >= coalesce(i.offset, 0))
UNION ALL
SELECT 'events', d.origin_partition, d.origin_offset,
       'a good event became a dead letter, ' || coalesce(h.value, '?')
FROM dead d JOIN dead_header h ON h.role = d.role AND h.partition = d.partition
 AND h.offset = d.offset AND h.name = 'dlq.class'
WHERE EXISTS (SELECT 1 FROM expected) AND NOT EXISTS (
  SELECT 1 FROM expected e WHERE e.partition = d.origin_partition AND e.offset = d.origin_offset)
"""

REPLAYS: Final = """
SELECT 'events', c.partition, c.offset, CASE
  WHEN r.of_topic IS NULL THEN 'its penstock.replay.of names no place'
  WHEN r.of_topic <> t.name THEN 'a copy of a record of ' || r.of_topic
  WHEN r.of_partition <> c.partition THEN 'a copy from partition ' || r.of_partition
  WHEN r.of_offset >= c.offset THEN 'a copy of offset ' || r.of_offset || ', which came later'
  WHEN o.offset IS NULL THEN 'a copy of offset ' || r.of_offset || ', which is not in the log'
  ELSE rtrim(CASE WHEN o.key IS NOT c.key THEN 'key, ' ELSE '' END
   || CASE WHEN o.value IS NOT c.value THEN 'value, ' ELSE '' END
   || CASE WHEN max(0, o.timestamp_ms) <> c.timestamp_ms THEN 'timestamp, ' ELSE '' END, ', ')
   || ' differ from the original at offset ' || r.of_offset END
FROM replay r JOIN event c USING (partition, offset) JOIN topic t ON t.role = 'events'
LEFT JOIN span s ON s.role = 'events' AND s.partition = r.of_partition
LEFT JOIN event o ON o.partition = r.of_partition AND o.offset = r.of_offset
WHERE r.of_topic IS NULL OR r.of_topic <> t.name OR r.of_partition <> c.partition
 OR r.of_offset >= c.offset OR (o.offset IS NULL AND r.of_offset >= s.start)
 OR (o.offset IS NOT NULL AND (o.key IS NOT c.key OR o.value IS NOT c.value
  OR max(0, o.timestamp_ms) <> c.timestamp_ms))
UNION ALL
SELECT 'events', c.partition, c.offset, 'failed ' || r.attempts
 || ' times before, and its dead letter says attempt ' || coalesce(h.value, '?')
FROM replay r JOIN event c USING (partition, offset)
JOIN output d ON d.role = 'events_dlq' AND d.origin_partition = c.partition
 AND d.origin_offset = c.offset
LEFT JOIN dead_header h ON h.role = d.role AND h.partition = d.partition
 AND h.offset = d.offset AND h.name = 'dlq.attempt'
WHERE r.attempts IS NOT NULL AND h.value IS NOT CAST(r.attempts + 1 AS TEXT)
"""

ACCOUNTING: Final = """
WITH log(service, outcome, value) AS (
  SELECT 'ingest', 'consumed', count(*) FROM event e
   JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition AND e.offset < c.offset
  UNION ALL SELECT 'ingest', 'skipped', count(*) FROM event e
   JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition AND e.offset < c.offset
   WHERE e.value IS NULL
  UNION ALL SELECT 'ingest', 'features', count(*) FROM feature
  UNION ALL SELECT 'inference', 'consumed', count(*) FROM feature f
   JOIN committed c ON c.service = 'inference' AND c.partition = f.partition AND f.offset < c.offset
  UNION ALL SELECT 'inference', 'predicted', count(*) FROM output WHERE role = 'predictions'
  UNION ALL SELECT 'inference', 'expired', count(*) FROM output
   WHERE role = 'predictions' AND outcome = 'expired'
  UNION ALL SELECT CASE d.role WHEN 'events_dlq' THEN 'ingest' ELSE 'inference' END,
    'dead:' || coalesce(h.value, '?'), count(*) FROM dead d JOIN dead_header h ON h.role = d.role
    AND h.partition = d.partition AND h.offset = d.offset AND h.name = 'dlq.class' GROUP BY 1, 2)
SELECT NULL, 0, 0, c.service || ' counted ' || c.value || ' ' || c.outcome || ', the log holds '
       || coalesce(l.value, 0)
FROM counter c LEFT JOIN log l USING (service, outcome) WHERE c.value <> coalesce(l.value, 0)
UNION ALL
SELECT NULL, 0, 0, l.service || ' counted 0 ' || l.outcome || ', the log holds ' || l.value
FROM log l WHERE l.value > 0 AND l.outcome <> 'expired' -- part of predicted: may be left out
 AND EXISTS (SELECT 1 FROM counter c WHERE c.service = l.service)
 AND NOT EXISTS (
   SELECT 1 FROM counter c WHERE c.service = l.service AND c.outcome = l.outcome)
"""


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

ROUTING_STATES: Final = """
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


@dataclass(frozen=True, slots=True)
class Invariant:
    """A law of the log; the numbers are those of the reliability design.

    Parameters
    ----------
    meaning
        One line, for whoever reads the report.
    query
        SQL that returns (role, partition, offset, what is wrong) of each offender.
    needs
        A table without which it is not measured, with what would fill it; empty if it always is.
    """

    name: str
    meaning: str
    query: str
    needs: tuple[str, str] | None = None


NEEDS_ROUTING: Final = ("routing", "no routing state is in the log")

INVARIANTS: Final[tuple[Invariant, ...]] = (
    Invariant(
        "I1 no loss",
        "every event below the committed offsets has an outcome",
        NO_LOSS,
    ),
    Invariant(
        "I2 no duplicate",
        "no event has two outcomes, over all output topics",
        NO_DUPLICATE,
    ),
    Invariant(
        "I3 offset agreement",
        "outcomes reach from the first event to the committed offset, no hole, none beyond",
        OFFSET_AGREEMENT,
    ),
    Invariant(
        "I4 order",
        "the outcomes of a key come in the order of its events",
        ORDER,
    ),
    Invariant(
        "I4 partition of the source",
        "an outcome lies in the partition number of its event",
        PLACEMENT,
    ),
    Invariant(
        "I5 atomicity",
        "nothing of an aborted or open transaction is ever visible, nothing visible vanishes",
        ATOMICITY,
    ),
    Invariant(
        "I6 fencing",
        "after a takeover nothing of the replaced attempt follows in its partition",
        FENCING,
    ),
    Invariant(
        "I7 dead letter bytes",
        "key, value, timestamp and headers of a dead letter are those of the record that failed",
        DEAD_LETTER_BYTES,
    ),
    Invariant(
        "I7 dead letter headers",
        "a dead letter carries every header of the contract once, and they are true",
        DEAD_LETTER_HEADERS,
    ),
    Invariant(
        "I7 dead letter class",
        "what was planted as bad is dead in its class, and nothing else is dead",
        CLASSES,
        ("expected", "nobody said which events are bad"),
    ),
    Invariant(
        "I7 replays",
        "a copy has the bytes of its original, and goes on counting its attempts",
        REPLAYS,
    ),
    Invariant(
        "I9 liveness",
        "every partition with work progresses within the time given after a fault",
        LIVENESS,
        ("fault", "no fault was named"),
    ),
    Invariant(
        "I10 provenance",
        "a version answers only while a routing state gives it keys, or drains it",
        PROVENANCE,
        NEEDS_ROUTING,
    ),
    Invariant(
        "I10 version switches",
        "an attempt follows the champions of the routing states in their order",
        SWITCHES,
        NEEDS_ROUTING,
    ),
    Invariant(
        "I10 routing states",
        "revisions grow, weights sum to 100, the digest of a version never changes",
        ROUTING_STATES,
        NEEDS_ROUTING,
    ),
    Invariant(
        "I14 accounting",
        "what the services counted is what the log holds",
        ACCOUNTING,
        ("counter", "no counters were given"),
    ),
    Invariant(
        "tombstones are skips",
        "an event without a value has no outcome",
        TOMBSTONES,
    ),
    Invariant(
        "outputs carry their event",
        "key, event id and features go unchanged from event to prediction",
        CONTENT,
    ),
    Invariant(
        "outcomes are borne out",
        "a prediction has finite scores and the decision they give; one that expired has none",
        ANSWERS,
    ),
    Invariant(
        "outputs are readable",
        "every output is Avro of a registered schema and names its event",
        READABLE,
    ),
)
