"""One SQL query per invariant. Each returns its offenders as (partition, offset, what is wrong).

Offsets are those of the event where the event is known, else those of the offending record.
The names are those of the reliability design: I1 no loss, I2 no duplicate, I3 offset agreement,
I4 order, I5 atomicity, I6 fencing, I7 dead letters, I14 accounting.
"""

from __future__ import annotations

from typing import Final

NO_LOSS: Final = """
SELECT e.partition, e.offset, 'below the committed offset of ingest, and left nothing'
FROM event e JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition
WHERE e.offset < c.offset AND e.value IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = e.partition AND o.origin_offset = e.offset
  AND o.role IN ('features', 'events_dlq'))
UNION ALL
SELECT f.origin_partition, f.origin_offset,
       'feature vector at ' || f.partition || '/' || f.offset
       || ' below the committed offset of inference, and left nothing'
FROM feature f JOIN committed c ON c.service = 'inference' AND c.partition = f.partition
WHERE f.offset < c.offset AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = f.origin_partition
  AND o.origin_offset = f.origin_offset AND o.role IN ('predictions', 'features_dlq'))
"""

NO_DUPLICATE: Final = """
SELECT origin_partition, origin_offset,
       count(*) || ' terminal records: ' || group_concat(role || ' ' || partition || '/' || offset)
FROM terminal GROUP BY origin_partition, origin_offset HAVING count(*) > 1
UNION ALL
SELECT origin_partition, origin_offset,
       'outcomes of ingest: ' || group_concat(role || ' ' || partition || '/' || offset)
FROM output WHERE role IN ('features', 'events_dlq')
GROUP BY origin_partition, origin_offset HAVING count(*) > 1
"""

OFFSET_AGREEMENT: Final = """
SELECT o.origin_partition, o.origin_offset, o.role || ' of an event that does not exist'
FROM output o WHERE NOT EXISTS (
  SELECT 1 FROM event e WHERE e.partition = o.origin_partition AND e.offset = o.origin_offset)
UNION ALL
SELECT o.origin_partition, o.origin_offset, o.role || ' beyond the committed offset of ingest'
FROM output o LEFT JOIN committed c ON c.service = 'ingest' AND c.partition = o.origin_partition
WHERE o.origin_offset >= coalesce(c.later, 0)
UNION ALL
SELECT o.origin_partition, o.origin_offset, o.role || ' without a feature vector'
FROM output o WHERE o.role IN ('predictions', 'features_dlq') AND NOT EXISTS (
  SELECT 1 FROM feature f
  WHERE f.origin_partition = o.origin_partition AND f.origin_offset = o.origin_offset)
UNION ALL
SELECT o.origin_partition, o.origin_offset, o.role || ' beyond the committed offset of inference'
FROM output o
JOIN feature f ON f.origin_partition = o.origin_partition AND f.origin_offset = o.origin_offset
LEFT JOIN committed c ON c.service = 'inference' AND c.partition = f.partition
WHERE o.role IN ('predictions', 'features_dlq') AND f.offset >= coalesce(c.later, 0)
UNION ALL
SELECT c.partition, c.later, c.service || ' committed beyond the end of its topic, ' || s.high
FROM committed c JOIN span s ON s.partition = c.partition
 AND s.role = CASE c.service WHEN 'ingest' THEN 'events' ELSE 'features' END
WHERE c.later > s.high
UNION ALL
SELECT e.partition, e.offset, 'hole: a later event of its partition has an outcome'
FROM event e
JOIN committed c ON c.service = 'ingest' AND c.partition = e.partition AND e.offset < c.offset
JOIN (SELECT origin_partition p, max(origin_offset) last FROM output GROUP BY 1) m
  ON m.p = e.partition AND e.offset < m.last
WHERE e.value IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM output o WHERE o.origin_partition = e.partition AND o.origin_offset = e.offset)
"""

ORDER: Final = """
SELECT origin_partition, origin_offset,
       role || ' ' || partition || '/' || offset || ' comes after that of origin ' || earlier
FROM (SELECT *, lag(origin_offset) OVER (PARTITION BY role, partition, key ORDER BY offset) earlier
      FROM output)
WHERE earlier >= origin_offset
"""

PLACEMENT: Final = """
SELECT origin_partition, origin_offset, role || ' in partition ' || partition
FROM output WHERE partition <> origin_partition
"""

ATOMICITY: Final = """
SELECT c.partition, c.offset, c.role || ': visible, but not in the log'
FROM sighting c LEFT JOIN sighting u ON u.view = 'uncommitted' AND u.role = c.role
 AND u.partition = c.partition AND u.offset = c.offset
WHERE c.view = 'committed' AND (u.view IS NULL OR u.value IS NOT c.value)
UNION ALL
SELECT l.partition, l.offset, l.role || ': seen by the concurrent reader, not visible at the end'
FROM sighting l LEFT JOIN sighting c ON c.view = 'committed' AND c.role = l.role
 AND c.partition = l.partition AND c.offset = l.offset
WHERE l.view = 'live' AND (c.view IS NULL OR c.value IS NOT l.value)
UNION ALL
SELECT c.partition, c.offset, c.role || ': visible beyond the last stable offset ' || s.stable
FROM sighting c JOIN span s ON s.role = c.role AND s.partition = c.partition
WHERE c.view = 'committed' AND c.offset >= s.stable
"""

FENCING: Final = """
SELECT origin_partition, origin_offset,
       'prediction ' || partition || '/' || offset || ' of attempt ' || attempt
       || ', which another attempt had replaced'
FROM (SELECT *,
        lag(attempt) OVER (PARTITION BY partition ORDER BY offset) before,
        first_value(offset) OVER (PARTITION BY partition, attempt ORDER BY offset) since
      FROM output WHERE role = 'predictions')
WHERE attempt IS NULL OR (before <> attempt AND since < offset)
"""

DEAD_LETTER_BYTES: Final = """
SELECT d.origin_partition, d.origin_offset, d.role || ' ' || d.partition || '/' || d.offset || ': '
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
SELECT d.origin_partition, d.origin_offset,
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
SELECT e.partition, e.offset,
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
SELECT d.origin_partition, d.origin_offset,
       'a good event became a dead letter, ' || coalesce(h.value, '?')
FROM dead d JOIN dead_header h ON h.role = d.role AND h.partition = d.partition
 AND h.offset = d.offset AND h.name = 'dlq.class'
WHERE EXISTS (SELECT 1 FROM expected) AND NOT EXISTS (
  SELECT 1 FROM expected e WHERE e.partition = d.origin_partition AND e.offset = d.origin_offset)
"""

TOMBSTONES: Final = """
SELECT o.origin_partition, o.origin_offset, 'a tombstone became a record of ' || o.role
FROM output o JOIN event e ON e.partition = o.origin_partition AND e.offset = o.origin_offset
WHERE e.value IS NULL
"""

CONTENT: Final = """
SELECT o.origin_partition, o.origin_offset,
       o.role || ' ' || o.partition || '/' || o.offset || ': key is not that of its event'
FROM output o JOIN event e ON e.partition = o.origin_partition AND e.offset = o.origin_offset
WHERE o.key IS NOT e.key
UNION ALL
SELECT p.origin_partition, p.origin_offset,
       'prediction ' || p.partition || '/' || p.offset || ': '
       || CASE WHEN p.event_id <> f.event_id THEN 'event_id' ELSE 'features' END
       || ' is not that of its feature vector'
FROM output p
JOIN feature f ON f.origin_partition = p.origin_partition AND f.origin_offset = p.origin_offset
WHERE p.role = 'predictions' AND (p.event_id <> f.event_id OR p.features IS NOT f.features)
"""

READABLE: Final = "SELECT partition, offset, role || ': ' || why FROM unreadable"

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
  UNION ALL SELECT CASE d.role WHEN 'events_dlq' THEN 'ingest' ELSE 'inference' END,
    'dead:' || coalesce(h.value, '?'), count(*) FROM dead d JOIN dead_header h ON h.role = d.role
    AND h.partition = d.partition AND h.offset = d.offset AND h.name = 'dlq.class' GROUP BY 1, 2)
SELECT 0, 0, c.service || ' counted ' || c.value || ' ' || c.outcome || ', the log holds '
       || coalesce(l.value, 0)
FROM counter c LEFT JOIN log l USING (service, outcome) WHERE c.value <> coalesce(l.value, 0)
UNION ALL
SELECT 0, 0, l.service || ' counted 0 ' || l.outcome || ', the log holds ' || l.value
FROM log l WHERE l.value > 0 AND EXISTS (SELECT 1 FROM counter c WHERE c.service = l.service)
 AND NOT EXISTS (
   SELECT 1 FROM counter c WHERE c.service = l.service AND c.outcome = l.outcome)
"""

INVARIANTS: Final[dict[str, str]] = {
    "I1 no loss": NO_LOSS,
    "I2 no duplicate": NO_DUPLICATE,
    "I3 offset agreement": OFFSET_AGREEMENT,
    "I4 order": ORDER,
    "I4 partition of the source": PLACEMENT,
    "I5 atomicity": ATOMICITY,
    "I6 fencing": FENCING,
    "I7 dead letter bytes": DEAD_LETTER_BYTES,
    "I7 dead letter headers": DEAD_LETTER_HEADERS,
    "I7 dead letter class": CLASSES,
    "I14 accounting": ACCOUNTING,
    "tombstones are skips": TOMBSTONES,
    "outputs carry their event": CONTENT,
    "outputs are readable": READABLE,
}
