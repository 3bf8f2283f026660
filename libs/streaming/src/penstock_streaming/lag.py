"""How far a consumer is behind, from the client's statistics.

Lag is the last stable offset minus what is committed: the high watermark would count records of
transactions that are still open.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping

from penstock_streaming.metrics import LoopMetrics

_MIN_INTERVAL_S = 0.5


class LagMeter:
    """Lag and drain time per partition.

    Parameters
    ----------
    topic
        The input topic.
    clock
        Monotonic seconds.
    """

    def __init__(self, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._topic = topic
        self._clock = clock
        self._ends: dict[int, int] = {}
        self._fallback: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._sample: tuple[float, dict[int, int], dict[int, int]] | None = None
        self._drain_s: dict[int, float] = {}
        self._exported: set[int] = set()

    def on_statistics(self, text: str) -> None:
        """Take librdkafka's statistics (its ``stats_cb``)."""
        topics = json.loads(text).get("topics", {})
        for name, facts in topics.get(self._topic, {}).get("partitions", {}).items():
            partition = int(name)
            if partition < 0:
                continue
            end = facts.get("ls_offset", -1)
            self._ends[partition] = end if end >= 0 else facts.get("hi_offset", -1)
            self._fallback[partition] = facts.get("next_offset", -1)
        self._measure()

    def on_committed(self, ends: Mapping[int, int]) -> None:
        """Learn what is committed."""
        self._committed.update(ends)

    def on_gone(self, partitions: Iterable[int]) -> None:
        """Forget partitions that are no longer ours."""
        for partition in partitions:
            self._committed.pop(partition, None)
            self._drain_s.pop(partition, None)

    def lag(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return records behind, per partition whose end is known."""
        return {
            p: max(0, self._ends[p] - self._done(p))
            for p in partitions
            if self._ends.get(p, -1) >= 0 and self._done(p) >= 0
        }

    def drain_s(self, partitions: Iterable[int]) -> dict[int, float]:
        """Return seconds until the lag is gone at today's rates; infinite where it grows."""
        return {p: self._drain_s[p] for p in partitions if p in self._drain_s}

    def export(self, partitions: Iterable[int], metrics: LoopMetrics) -> None:
        """Set the gauges; those of partitions that another member has now go to zero."""
        lags, drains = self.lag(partitions), self.drain_s(partitions)
        self._exported.update(lags)
        for partition in self._exported:
            labels = (self._topic, str(partition))
            metrics.lag.labels(*labels).set(lags.get(partition, 0))
            metrics.drain.labels(*labels).set(drains.get(partition, 0.0))

    def _done(self, partition: int) -> int:
        return self._committed.get(partition, self._fallback.get(partition, -1))

    def _measure(self) -> None:
        now = self._clock()
        done = {p: self._done(p) for p in self._ends}
        if self._sample is not None:
            before, ends, done_before = self._sample
            elapsed_s = now - before
            if elapsed_s < _MIN_INTERVAL_S:
                return
            for p, end in self._ends.items():
                gained = (done[p] - done_before.get(p, done[p])) - (end - ends.get(p, end))
                lag = max(0, end - done[p])
                if lag == 0:
                    self._drain_s[p] = 0.0
                else:
                    self._drain_s[p] = lag * elapsed_s / gained if gained > 0 else math.inf
        self._sample = (now, dict(self._ends), done)
