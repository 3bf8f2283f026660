"""The two ends of a latency measurement, each a process of its own.

``send`` produces events at a fixed rate; each carries, as its id, the wall clock's microseconds at
its creation and its number. ``read`` is a read_committed reader of the output on the same host: the
difference to its own clock is the latency. Both clients add what they add for every contender:
1 ms of linger at the sender.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import workloads
from confluent_kafka import Consumer, Producer, TopicPartition

WARM_NUMBER: Final = 10**15
"""Numbers from here on are warm-up: they tell that the contender works."""
DRAIN_S: Final = 15.0
PERCENTILES: Final = {"p50": 50, "p99": 99, "p999": 99.9}
POOL: Final = 1_000


def stamped(payload: bytes, number: int) -> bytes:
    """Return a payload whose id is the time and a number.

    Examples
    --------
    >>> value = stamped(b"." * 6 + b"0" * 32 + b"rest", 7)
    >>> stamp_of(value)[1], value[38:]
    (7, b'rest')
    """
    event_id = b"%016d%016d" % (time.time_ns() // 1000, number)
    return payload[: workloads.ID_AT.start] + event_id + payload[workloads.ID_AT.stop :]


def stamp_of(value: bytes) -> tuple[int, int]:
    """Return time (microseconds since the epoch) and number of an output.

    Predictions of every contender begin with the id, as events do.
    """
    event_id = value[workloads.ID_AT]
    return int(event_id[:16]), int(event_id[16:])


def producer(bootstrap: str) -> Producer:
    """Return the sender's client."""
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})


def send(bootstrap: str, topic: str, payloads: workloads.Pool, rate: int, count: int) -> float:
    """Send ``count`` events at ``rate`` per second; return the seconds it took."""
    client = producer(bootstrap)
    start = time.perf_counter()
    for number in range(count):
        wait_s = start + number / rate - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        key, payload = payloads[number % len(payloads)]
        client.produce(topic, stamped(payload, number), key=key)
        client.poll(0)
    took_s = time.perf_counter() - start
    if client.flush(DRAIN_S):
        raise RuntimeError("not every event was delivered")
    return took_s


class Reader:
    """Reads the output and keeps each event's latency.

    Parameters
    ----------
    skip
        Numbers below it are not judged: the settling after the start.
    """

    def __init__(self, bootstrap: str, topic: str, count: int, skip: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"bench-read-{topic}",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        partitions = range(workloads.PARTITIONS)
        self._consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        self._latencies = np.full(count, np.nan)
        self._skip = skip
        self._warm = 0
        self.duplicates = 0
        self.got = 0
        self.last_at = time.monotonic()

    def take(self, on_warm: Callable[[int], None]) -> None:
        """Read what has arrived."""
        first = self._consumer.poll(0.1)
        if first is None:
            return
        messages = [first, *self._consumer.consume(1_000, 0)]
        now = time.time_ns() // 1000
        for message in messages:
            if message.error() is not None:
                continue
            sent, number = stamp_of(message.value())
            if number >= WARM_NUMBER:
                self._warm += 1
                on_warm(self._warm)
            elif np.isnan(self._latencies[number]):
                self._latencies[number] = (now - sent) / 1000
                self.got += 1
            else:
                self.duplicates += 1
        self.last_at = time.monotonic()

    def summary(self) -> dict[str, Any]:
        """Return the percentiles, milliseconds."""
        judged = self._latencies[self._skip :]
        seen = judged[~np.isnan(judged)]
        found = {"got": len(seen), "duplicates": self.duplicates}
        if not len(seen):
            return found
        return found | {k: round(float(np.percentile(seen, p)), 2) for k, p in PERCENTILES.items()}


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Read until everything sent is there, or nothing has come for `DRAIN_S` after the end."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    reader = Reader(options.kafka, options.topic, options.count, options.skip)

    def on_warm(warm: int) -> None:
        print(f"warm {warm}", flush=True)

    while reader.got < options.count:
        reader.take(on_warm)
        if ended.is_set() and time.monotonic() - reader.last_at > DRAIN_S:
            break
    return reader.summary()


def main() -> None:
    """Run one end; its result is one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("end", choices=("send", "read"))
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--rate", type=int, default=1)
    parser.add_argument("--kind", choices=("vectors", "events"), default="vectors")
    parser.add_argument("--schema-id", type=int, default=0)
    options = parser.parse_args()
    if options.end == "read":
        print(json.dumps(read(options)))
        return
    schema = workloads.VECTOR_SCHEMA if options.kind == "vectors" else workloads.EVENT_SCHEMA
    payloads = workloads.pool(schema, options.schema_id, POOL)
    took_s = send(options.kafka, options.topic, payloads, options.rate, options.count)
    print(json.dumps({"took_s": round(took_s, 2)}))


if __name__ == "__main__":
    main()
