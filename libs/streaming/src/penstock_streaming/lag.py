"""How far a consumer is behind, how fast its partitions fill and empty, and when they are drained.

Lag is the last stable offset minus what is committed: the high watermark would count records of
transactions that are still open. All is counted in offsets. Control records and what compaction has
removed take offsets too, but they do so in arrival, in consumption and in lag alike, so that the
quotient is right with them.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock_streaming.metrics import LoopMetrics

WINDOW_S: Final = 15.0
"""Time that rates are averaged over, seconds: commits come in bursts, and so do the last stable
offsets of a topic that is itself written in transactions."""
MIN_SPAN_S: Final = 0.5
"""Time below which a difference of two measurements is no rate, seconds."""
SETTLED_S: Final = 2.0
"""Work of this many seconds is no backlog: it is what open transactions hold."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One partition, or several together, at one time.

    Parameters
    ----------
    lag
        Offsets between what is committed and the last stable offset.
    arrived_per_s, consumed_per_s
        Offsets per second.
    """

    lag: int
    arrived_per_s: float
    consumed_per_s: float

    @property
    def is_settled(self) -> bool:
        """Whether the lag is no more than what is being worked on."""
        return self.lag <= self.consumed_per_s * SETTLED_S

    @property
    def drain_s(self) -> float:
        """Seconds until the lag is gone at these rates; infinite where it is not getting less.

        Examples
        --------
        >>> Flow(lag=3000, arrived_per_s=100.0, consumed_per_s=400.0).drain_s
        10.0
        >>> Flow(lag=3000, arrived_per_s=400.0, consumed_per_s=400.0).drain_s
        inf
        >>> Flow(lag=40, arrived_per_s=400.0, consumed_per_s=400.0).drain_s
        0.0
        """
        if self.is_settled:
            return 0.0
        gained_per_s = self.consumed_per_s - self.arrived_per_s
        return self.lag / gained_per_s if gained_per_s > 0.0 else math.inf


class FlowMeter:
    """The flow of one partition, from measurements of its two ends."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def measure(self, now_s: float, end: int, done: int) -> None:
        """Take a measurement.

        Parameters
        ----------
        now_s
            Monotonic seconds.
        end
            The last stable offset.
        done
            The offset after what is committed.
        """
        samples = self._samples
        if samples and (end < samples[-1][1] or done < samples[-1][2]):
            samples.clear()  # offsets only grow: it is another log, or another place in it
        elif len(samples) > 1 and now_s - samples[-2][0] < MIN_SPAN_S:
            samples.pop()
        samples.append((now_s, end, done))
        while len(samples) > 2 and now_s - samples[1][0] >= WINDOW_S:
            samples.popleft()

    def flow(self) -> Flow | None:
        """Return the flow over the window, None before there are two measurements."""
        if len(self._samples) < 2:
            return None
        (then_s, end_then, done_then), (now_s, end, done) = self._samples[0], self._samples[-1]
        span_s = now_s - then_s
        if span_s < MIN_SPAN_S:
            return None
        return Flow(max(0, end - done), (end - end_then) / span_s, (done - done_then) / span_s)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a member of the group has before it.

    Parameters
    ----------
    flow
        Of all its measured partitions together.
    partitions
        Partitions that the topic has.
    owned, measured
        Those that are this member's, and those of them whose rates are known.
    paused
        Whether an outage holds the member up: its rates then say nothing about its strength.
    """

    flow: Flow
    partitions: int
    owned: int
    measured: int
    paused: bool = False


class LagMeter:
    """Lag and drain time per partition.

    Parameters
    ----------
    topic
        The input topic.
    clock
        Monotonic seconds.

    Attributes
    ----------
    is_idle
        Whether all that the consumer has returned is committed; the loop says so before it polls.
    """

    def __init__(self, topic: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_idle = False
        self._topic = topic
        self._clock = clock
        self._ends: dict[int, int] = {}
        self._found: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._quiet_at: dict[int, tuple[int, int]] = {}
        self._empty_to: dict[int, int] = {}
        self._meters: dict[int, FlowMeter] = {}
        self._exported: set[int] = set()

    def on_statistics(self, text: str) -> None:
        """Read librdkafka's statistics (its ``stats_cb``)."""
        topics = json.loads(text).get("topics", {})
        now_s = self._clock()
        for name, facts in topics.get(self._topic, {}).get("partitions", {}).items():
            partition = int(name)
            if partition >= 0:
                self._read_ends(partition, facts)
                self._measure(partition, now_s)

    def on_committed(self, ends: Mapping[int, int]) -> None:
        """Note what is committed."""
        self._committed.update(ends)

    def on_moved(self, partitions: Iterable[int]) -> None:
        """Forget what is known of partitions that come to this member, or leave it."""
        for partition in partitions:
            for known in (self._committed, self._quiet_at, self._empty_to, self._meters):
                known.pop(partition, None)

    def lag(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return records behind, per partition whose end is known."""
        found = {p: (self._ends.get(p, -1), self._done(p)) for p in partitions}
        return {p: max(0, end - done) for p, (end, done) in found.items() if min(end, done) >= 0}

    def drain_s(self, partitions: Iterable[int]) -> dict[int, float]:
        """Return seconds until the lag is gone at today's rates; infinite where it grows."""
        return {p: flow.drain_s for p, flow in self._flows(partitions).items()}

    def backlog(self, partitions: Iterable[int]) -> Backlog:
        """Return what lies before a member that owns these partitions."""
        owned = list(partitions)
        flows = self._flows(owned).values()
        together = Flow(
            sum(f.lag for f in flows),
            sum(f.arrived_per_s for f in flows),
            sum(f.consumed_per_s for f in flows),
        )
        return Backlog(together, len(self._ends), len(owned), len(flows))

    def export(self, partitions: Iterable[int], metrics: LoopMetrics) -> None:
        """Set the gauges; those of partitions that another member has now go to zero."""
        lags, drains = self.lag(partitions), self.drain_s(partitions)
        self._exported.update(lags)
        for partition in self._exported:
            labels = (self._topic, str(partition))
            metrics.lag.labels(*labels).set(lags.get(partition, 0))
            metrics.drain.labels(*labels).set(drains.get(partition, 0.0))

    def _read_ends(self, partition: int, facts: Mapping[str, Any]) -> None:
        end = facts.get("ls_offset", -1)
        self._ends[partition] = end if end >= 0 else facts.get("hi_offset", -1)
        # What the group had committed when we got the partition; where there is nothing, we begin
        # at the start of the log. Not the fetch position: it is ahead by all that is prefetched.
        found = facts.get("committed_offset", -1)
        found = found if found >= 0 else facts.get("lo_offset", -1)
        if found != self._found.get(partition) and partition not in self._committed:
            self._meters.pop(partition, None)
        self._found[partition] = found
        self._note_empty_tail(partition, facts)

    def _note_empty_tail(self, partition: int, facts: Mapping[str, Any]) -> None:
        """Note where only control records, or what compaction removed, lie before the end.

        The client then has read past them, holds nothing and has returned nothing that is not
        committed. It is believed the second time: records on their way to its queue show nowhere.
        """
        fetched, returned = facts.get("next_offset", -1), facts.get("app_offset", -1)
        is_behind = 0 <= self._done(partition) < fetched
        if not (is_behind and self.is_idle and facts.get("fetchq_cnt", 1) == 0):
            self._quiet_at.pop(partition, None)
        elif self._quiet_at.get(partition) == (fetched, returned):
            self._empty_to[partition] = fetched
        else:
            self._quiet_at[partition] = (fetched, returned)

    def _done(self, partition: int) -> int:
        done = self._committed.get(partition, self._found.get(partition, -1))
        return max(done, self._empty_to.get(partition, -1))

    def _measure(self, partition: int, now_s: float) -> None:
        end, done = self._ends[partition], self._done(partition)
        if min(end, done) >= 0:
            self._meters.setdefault(partition, FlowMeter()).measure(now_s, end, done)

    def _flows(self, partitions: Iterable[int]) -> dict[int, Flow]:
        found = {p: self._meters[p].flow() for p in partitions if p in self._meters}
        return {p: flow for p, flow in found.items() if flow is not None}
