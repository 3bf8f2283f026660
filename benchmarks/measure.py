"""How a contender is measured: by what a read_committed reader of its output topic can see.

Time comes from watching the last stable offsets while it runs (cheap, so that the watcher takes
little of the two cores); the count comes from reading every record afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

_NO_LEADER_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)
"""A topic just made answers so for a moment."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one contender.

    Parameters
    ----------
    events
        Records visible to read_committed, all of them.
    events_per_s
        Records that became visible after the first sample, per second.
    cpu_s_per_million
        User and system seconds of the contender's processes per million events, same span.
    rss_mib
        Largest resident size of those processes together.
    startup_s
        From start to the first visible record.
    """

    events: int
    events_per_s: float
    cpu_s_per_million: float
    rss_mib: float
    startup_s: float


@dataclass(slots=True)
class _Sample:
    at_s: float
    stable: dict[int, int]
    cpu_s: float


def _stable_offsets(admin: AdminClient, topic: str, partitions: int) -> dict[int, int]:
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


def _usage(pids: list[int]) -> tuple[float, float]:
    cpu = rss = 0.0
    for pid in pids:
        try:
            root = psutil.Process(pid)
            for process in (root, *root.children(recursive=True)):
                times = process.cpu_times()
                cpu += times.user + times.system
                rss += process.memory_info().rss
        except psutil.Error:
            continue
    return cpu, rss


def count_committed(
    bootstrap: str, topic: str, upto: dict[int, int], deadline_s: float = 120
) -> int:
    """Read ``topic`` from the start to the offsets ``upto`` and count the visible records."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "bench-count",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    pending = {p: end for p, end in upto.items() if end > 0}
    consumer.assign([TopicPartition(topic, p, 0) for p in pending])
    count = 0
    limit = time.monotonic() + deadline_s
    while pending and time.monotonic() < limit:
        for message in consumer.consume(10_000, 0.2):
            if message.error() is None and message.offset() < upto[message.partition()]:
                count += 1
        # position() steps over control records, so it reaches the end where the last is a marker
        for tp in consumer.position([TopicPartition(topic, p) for p in pending]):
            if tp.offset >= upto[tp.partition]:
                pending.pop(tp.partition)
    consumer.close()
    if pending:
        raise RuntimeError(f"{topic}: could not read to {upto} within {deadline_s:.0f} s")
    return count


def watch(
    bootstrap: str,
    topic: str,
    partitions: int,
    expected: int,
    pids: Callable[[], list[int]],
    deadline_s: float = 180,
) -> Measured:
    """Watch ``topic`` until ``expected`` records are visible in it, then count them."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    started = time.monotonic()
    samples: list[_Sample] = []
    peak = 0.0
    while time.monotonic() - started < deadline_s:
        stable = _stable_offsets(admin, topic, partitions)
        cpu, rss = _usage(pids())
        peak = max(peak, rss)
        if any(stable.values()):
            samples.append(_Sample(time.monotonic(), stable, cpu))
        # Markers take offsets too, so this is reached a little early; growth then decides.
        if (
            sum(stable.values()) >= expected
            and len(samples) > 1
            and (samples[-1].stable == samples[-2].stable)
        ):
            break
        time.sleep(0.05)
    if len(samples) < 2:
        raise RuntimeError(f"{topic}: nothing became visible within {deadline_s:.0f} s")
    end = next(s for s in samples if s.stable == samples[-1].stable)
    first = samples[0]
    total = count_committed(bootstrap, topic, end.stable)
    grown = total - count_committed(bootstrap, topic, first.stable)
    span_s = end.at_s - first.at_s
    return Measured(
        events=total,
        events_per_s=grown / span_s,
        cpu_s_per_million=(end.cpu_s - first.cpu_s) / grown * 1e6,
        rss_mib=peak / 2**20,
        startup_s=first.at_s - started,
    )
