"""Dead letters and copies, I7, and the services' own counts, I14."""

from __future__ import annotations

from typing import Final

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
