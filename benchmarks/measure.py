"""How throughput is measured: by what a read_committed reader of the output topic can see.

Time comes from watching the last stable offsets while a contender runs (cheap, so that the watcher
takes little of its cores); the count comes from reading every record afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import workloads
from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from counting import Offsets, count_committed
from usage import Usage

LOOK_S: Final = 0.1
IDLE_AT_END_S: Final = 1.5
"""Silence that tells, once enough offsets are there, that no record is still to come."""
IDLE_S: Final = 15.0
"""Silence that ends the watch anyway."""
_NO_LEADER_YET: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,  # noqa: SLF001 - "No leaders found", the client's word for it
)
"""A topic just made answers so for a moment."""

Pids = Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one run may take, seconds.

    Parameters
    ----------
    start_s
        Until the first output is visible.
    warm_s
        After the first output; what comes in it is not counted.
    window_s
        After the first output; a contender that is not through by then has been measured.
    """

    start_s: float = 120.0
    warm_s: float = 2.0
    window_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one contender.

    Parameters
    ----------
    events
        Records visible to read_committed at the end of the watch.
    seconds
        Span of the measurement, after the warm-up.
    events_per_s
        Records that became visible in that span, per second.
    cpu_s_per_million
        User and system seconds of the contender's processes per million events, same span.
    rss_mib
        Largest resident size of those processes together.
    startup_s
        From start to the first visible record.
    batch_fill
        Mean rows of a batch over the largest allowed; NaN where the contender does not tell.
    """

    events: int
    seconds: float
    events_per_s: float
    cpu_s_per_million: float
    rss_mib: float
    startup_s: float
    batch_fill: float = math.nan


@dataclass(frozen=True, slots=True)
class Sample:
    """What was to be seen at one moment.

    Parameters
    ----------
    at_s
        Since the start.
    stable
        Last stable offset by partition.
    cpu_s
        Used by the contender until then.
    """

    at_s: float
    stable: Offsets
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of one run.

    Parameters
    ----------
    samples
        From the first visible output on.
    rss_mib
        The largest seen.
    """

    samples: Sequence[Sample]
    rss_mib: float


def watch(
    bootstrap: str, topic: str, partitions: int, expected: int, pids: Pids, limits: Limits
) -> Watched:
    """Watch ``topic`` until ``expected`` records are visible in it, or the window is over.

    Raises
    ------
    RuntimeError
        If nothing becomes visible in time, or the contender ends.
    """
    admin = workloads.admin_client(bootstrap)
    usage, started = Usage(), time.monotonic()
    samples: list[Sample] = []
    peak = 0.0
    while True:
        stable = _stable_offsets(admin, topic, partitions)
        at_s = time.monotonic() - started
        cpu, rss = usage.of(pids())
        peak = max(peak, rss)
        if any(stable.values()):
            samples.append(Sample(at_s, stable, cpu))
        elif at_s > limits.start_s:
            raise RuntimeError(f"{topic}: nothing became visible within {limits.start_s:.0f} s")
        if samples and _is_over(samples, expected, limits):
            return Watched(samples, peak / 2**20)
        time.sleep(LOOK_S)


def _is_over(samples: Sequence[Sample], expected: int, limits: Limits) -> bool:
    last = samples[-1]
    if last.at_s - samples[0].at_s > limits.window_s:
        return True
    grew = next(s for s in reversed(samples) if s.stable != last.stable or s is samples[0])
    idle_s = last.at_s - grew.at_s
    # Markers take offsets too: enough offsets may still lack records.
    enough = sum(last.stable.values()) >= expected
    return idle_s > (IDLE_AT_END_S if enough else IDLE_S)


def span(samples: Sequence[Sample], warm_s: float) -> tuple[Sample, Sample]:
    """Return the first and the last moment of the measurement, both at a growth.

    Outputs that come in steps, such as transactions, are measured from step to step. A run that is
    over within the warm-up is measured as a whole.

    Raises
    ------
    RuntimeError
        If the outputs grew less than twice.
    """
    steps = [samples[0]]
    for sample in samples[1:]:
        if sample.stable != steps[-1].stable:
            steps.append(sample)
    if len(steps) < 2:
        raise RuntimeError("the outputs became visible in one step: more records are needed")
    warm = [s for s in steps if s.at_s - steps[0].at_s >= warm_s]
    first = warm[0] if len(warm) > 1 else steps[0]
    return first, steps[-1]


def measured(bootstrap: str, topic: str, watched: Watched, warm_s: float, fill: float) -> Measured:
    """Return what was watched as figures; every record is read once."""
    first, end = span(watched.samples, warm_s)
    before, total = count_committed(bootstrap, topic, first.stable, end.stable)
    grown, seconds = total - before, end.at_s - first.at_s
    return Measured(
        events=total,
        seconds=seconds,
        events_per_s=grown / seconds,
        cpu_s_per_million=(end.cpu_s - first.cpu_s) / max(grown, 1) * 1e6,
        rss_mib=watched.rss_mib,
        startup_s=watched.samples[0].at_s,
        batch_fill=fill,
    )


def _stable_offsets(admin: AdminClient, topic: str, partitions: int) -> Offsets:
    request = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(partitions)}
    answers = admin.list_offsets(
        request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=10
    )
    try:
        return {tp.partition: f.result().offset for tp, f in answers.items()}
    except KafkaException as exc:
        if exc.args[0].code() in _NO_LEADER_YET:
            return {}
        raise
