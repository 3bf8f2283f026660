"""What became of each event: one SQL query per invariant, I1 to I6.

Each returns its offenders as (role, partition, offset, what is wrong): the place of the event
where the event is known, else that of the offending record.
"""

from __future__ import annotations

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
