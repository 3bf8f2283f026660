"""How latency is measured: event creation to a read_committed reader, at a fixed offered rate."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import latency_probe
import workloads
from contenders import Contender, Place
from usage import Usage

PROBE: Final = Path(latency_probe.__file__)
SETTLE_S: Final = 3.0
"""Start of the sending that is not judged."""
START_S: Final = 120.0
WARM_OUTPUTS: Final = 40
WARM_EVERY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Latency:
    """One run of one contender at one rate.

    Parameters
    ----------
    sent, got
        Events judged, and those of them that were read.
    duplicates
        Read once more.
    achieved
        Events per second that the sender reached.
    p50_ms, p99_ms, p999_ms
        Event creation to committed read.
    cpu_cores
        Cores that the contender's processes used.
    """

    rate: int
    sent: int
    got: int
    duplicates: int
    achieved: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_cores: float


@dataclass(frozen=True, slots=True)
class Offer:
    """What is offered.

    Parameters
    ----------
    seconds
        Of sending that is judged.
    schema_ids
        By kind of input.
    """

    bootstrap: str
    rate: int
    seconds: float
    schema_ids: dict[str, int]

    @property
    def count(self) -> int:
        """Events sent."""
        return int(self.rate * (self.seconds + SETTLE_S))

    @property
    def skip(self) -> int:
        """Events not judged."""
        return int(self.rate * SETTLE_S)


def run(contender: Contender, place: Place, offer: Offer) -> Latency:
    """Measure one contender at one rate, on topics of its own."""
    topics = (place.source, place.output)
    for topic in topics:
        workloads.create_topic(offer.bootstrap, topic)
    with contender.started(place) as running, _Reader(place, offer) as reader:
        _warm_up(contender, place, offer, reader)
        before, at = Usage().of(running.pids())[0], time.monotonic()
        sent = _send(contender, place, offer)
        cores = (Usage().of(running.pids())[0] - before) / (time.monotonic() - at)
        seen = reader.result()
    return Latency(
        rate=offer.rate,
        sent=offer.count - offer.skip,
        got=seen["got"],
        duplicates=seen["duplicates"],
        achieved=round(offer.count / sent["took_s"]),
        p50_ms=seen.get("p50", float("nan")),
        p99_ms=seen.get("p99", float("nan")),
        p999_ms=seen.get("p999", float("nan")),
        cpu_cores=round(cores, 3),
    )


class _Reader:
    """The reading process; ``warm`` counts the warm-up outputs it has read so far."""

    def __init__(self, place: Place, offer: Offer) -> None:
        flags = {"kafka": offer.bootstrap, "topic": place.output}
        numbers = {"count": offer.count, "skip": offer.skip}
        argv = [sys.executable, str(PROBE), "read"]
        argv += [text for k, v in (flags | numbers).items() for text in (f"--{k}", str(v))]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.warm = 0
        self._last = ""
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)

    def _collect(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        for line in self._process.stdout:
            self.warm += line.startswith("warm")
            self._last = line

    def result(self) -> dict[str, Any]:
        """Tell that everything was sent; return what was seen."""
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        self._process.stdin.close()
        self._process.wait(latency_probe.DRAIN_S + 30)
        self._thread.join(10)
        found: dict[str, Any] = json.loads(self._last)
        return found


def _warm_up(contender: Contender, place: Place, offer: Offer, reader: _Reader) -> None:
    """Send single events until enough outputs have been read.

    Raises
    ------
    RuntimeError
        If they do not come in time.
    """
    client = latency_probe.producer(offer.bootstrap)
    payloads = _payloads(contender, offer)
    limit = time.monotonic() + START_S
    number = latency_probe.WARM_NUMBER
    while reader.warm < WARM_OUTPUTS:
        if time.monotonic() > limit:
            raise RuntimeError(f"{contender.name}: no outputs within {START_S:.0f} s")
        key, payload = payloads[number % len(payloads)]
        client.produce(place.source, latency_probe.stamped(payload, number), key=key)
        client.poll(0)
        number += 1
        time.sleep(WARM_EVERY_S)
    client.flush(10)


def _payloads(contender: Contender, offer: Offer) -> workloads.Pool:
    vectors = contender.reads == "vectors"
    schema = workloads.VECTOR_SCHEMA if vectors else workloads.EVENT_SCHEMA
    return workloads.pool(schema, offer.schema_ids[contender.reads], 100)


def _send(contender: Contender, place: Place, offer: Offer) -> dict[str, Any]:
    argv: Sequence[str] = [
        *(sys.executable, str(PROBE), "send", "--kafka", offer.bootstrap),
        *("--topic", place.source, "--rate", str(offer.rate), "--count", str(offer.count)),
        *("--kind", contender.reads, "--schema-id", str(offer.schema_ids[contender.reads])),
    ]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
