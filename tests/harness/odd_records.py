"""The list of odd and bad records of a Kafka topic, each with what it must become.

Those of the events topic are made from readings of pumps, those of the features topic from a
FeatureVector that ingest has written.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from harness.raw_producer import RawMessage
from harness.spoilt import Encode, Row

YEAR_9999_MS: Final = 253_402_300_799_000
LONGEST: Final = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"
"""2 ** 62 - 1 as a length."""
DEEP: Final = 100_000
MANY: Final = tuple((b"h%d" % i, b"x") for i in range(10_000))
ODD_HEADERS: Final = {
    "the same twice": ((b"a", b"1"), (b"a", b"2")),
    "empty name": ((b"", b"1"),),
    "null value": ((b"a", None),),
    "value not text": ((b"a", b"\xff\x00\n"),),
    "ten thousand": MANY,
    "CloudEvents without id, old version": (
        (b"ce_specversion", b"0.3"),
        (b"content-type", b"application/cloudevents+json"),
    ),
}
UNREADABLE: Final = ((b"\xff\xfe", b"1"), (b"seen", b"1"))
"""A name that is no text: the client shows none of them, so a dead letter cannot keep them."""
ODD_TIMES: Final = {"-1": -1, "0": 0, "year 9999": YEAR_9999_MS}

Case = tuple[str, str, RawMessage]
"""(what is odd, what it must become, the record)."""


def framed_by(schema_id: int, value: bytes) -> bytes:
    """Return a framed value under another id."""
    return struct.pack(">BI", 0, schema_id) + value[5:]


def odd_events(new_row: Callable[[], Row], encode: Encode) -> Iterator[Case]:
    """Yield odd events; ``new_row`` gives a good reading with an id of its own."""

    def avro(**changes: Any) -> bytes:
        return encode(new_row() | changes)

    yield from _bad_bytes(avro)
    yield from _odd_numbers(avro)
    yield from _odd_texts(avro)
    yield from _odd_json(new_row)
    yield from _odd_records(avro)


def _bad_bytes(avro: Callable[..., bytes]) -> Iterator[Case]:
    for size in range(5):
        yield f"{size} bytes", "decode", RawMessage(bytes(size))
    yield "prefix only", "decode", RawMessage(avro()[:5])
    yield "wrong magic", "decode", RawMessage(b"\x01" + avro()[1:])
    yield "gzip in the value", "decode", RawMessage(gzip.compress(avro(), mtime=0))
    yield "truncated", "decode", RawMessage(avro()[:-3])
    yield "trailing", "decode", RawMessage(avro() + b"\x00")
    yield "length bomb", "decode", RawMessage(avro()[:5] + LONGEST)
    for schema_id in (0, 2**31 - 1, 2**31, 2**32 - 1):
        yield f"schema {schema_id}", "schema", RawMessage(framed_by(schema_id, avro()))


def _odd_numbers(avro: Callable[..., bytes]) -> Iterator[Case]:
    for number in (math.nan, math.inf, -math.inf, 1e300):
        yield f"{number}", "rule", RawMessage(avro(vibration=number))
    for number in (-0.0, 5e-324, -1e-45, 3.4e38):
        yield f"{number}", "predicted", RawMessage(avro(vibration=number))
    for number in (math.nan, math.inf, -1.0):
        yield f"pressure {number}", "rule", RawMessage(avro(pressure=number))
    for moment in (0, -1, 2**63 - 1, -(2**63), YEAR_9999_MS):
        yield f"event time {moment}", "predicted", RawMessage(avro(event_time=moment))


def _odd_texts(avro: Callable[..., bytes]) -> Iterator[Case]:
    for text in ("\0", "'; DROP TABLE x; --", "<script>alert(1)</script>", "a\nb\r\n{}", "€😀"):
        yield f"text {text!r}", "predicted", RawMessage(avro(event_id=f"odd-{text}"))
    surrogate = avro(event_id="~~~").replace(b"~~~", b"\xed\xa0\x80")
    yield "lone surrogate", "decode", RawMessage(surrogate)
    yield "overlong NUL", "decode", RawMessage(avro(event_id="~~").replace(b"~~", b"\xc0\x80"))
    yield "text of 1 MiB", "oversize", RawMessage(avro(event_id="m" * 2**20))
    yield "text of 3 MiB", "oversize", RawMessage(avro(pump_id="m" * 3 * 2**20))


def _odd_json(new_row: Callable[[], Row]) -> Iterator[Case]:
    def text(**changes: Any) -> str:
        return json.dumps(new_row() | changes)

    yield "JSON", "predicted", RawMessage(text().encode())
    yield "JSON that is not UTF-8", "decode", RawMessage(text().encode("utf-16"))
    yield "JSON with NaN", "decode", RawMessage(text(vibration=math.nan).encode())
    yield "JSON cut", "decode", RawMessage(text().encode()[:-1])
    yield "two JSON objects", "decode", RawMessage(text().encode() * 2)
    yield "deep JSON", "decode", RawMessage(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}")
    yield "JSON of another type", "schema", RawMessage(b'{"type": "order.created", "data": {}}')
    yield "JSON text for a number", "schema", RawMessage(text(vibration="1").encode())
    yield "JSON number too long", "schema", RawMessage(text(event_time=2**70).encode())
    cloud = {"specversion": "0.3", "type": "reading", "data": new_row()}
    yield "CloudEvent in a value", "schema", RawMessage(json.dumps(cloud).encode())


def _odd_records(avro: Callable[..., bytes]) -> Iterator[Case]:
    yield "no key", "rule", RawMessage(avro(), key=None)
    yield "empty key", "predicted", RawMessage(avro(), key=b"")
    yield "key not text", "predicted", RawMessage(avro(), key=b"\xff\xfe\x00")
    yield "tombstone", "skip", RawMessage(None)
    yield "tombstone without key", "skip", RawMessage(None, key=None)
    for name, headers in ODD_HEADERS.items():
        yield f"headers: {name}", "predicted", RawMessage(avro(), headers=headers)
        yield f"bad, headers: {name}", "decode", RawMessage(b"bad", headers=headers)
    yield "headers not text", "predicted", RawMessage(avro(), headers=UNREADABLE)
    for name, moment in ODD_TIMES.items():
        yield f"timestamp {name}", "predicted", RawMessage(avro(), timestamp_ms=moment)
        if moment:  # no dead letter can have 0: the client takes it for the present
            yield f"bad, timestamp {name}", "decode", RawMessage(b"bad", timestamp_ms=moment)


def odd_vectors(vector: dict[str, Any], encode: Encode) -> Iterator[Case]:
    """Yield odd FeatureVectors; the topic takes no odd timestamps and at most 1 MiB."""
    good: list[float] = vector["features"]

    def avro(*features: float) -> RawMessage:
        return RawMessage(encode(vector | {"features": list(features)}))

    plain = encode(vector)
    yield "one feature less", "shape", avro(*good[:-1])
    yield "one feature more", "shape", avro(*good, 0.0)
    yield "no features", "shape", avro()
    for number in (math.nan, math.inf, -math.inf):
        yield f"feature {number}", "rule", avro(number, *good[1:])
    for number in (-0.0, 1e-45, 3.4e38):
        yield f"feature {number}", "predicted", avro(number, *good[1:])
    yield "empty", "decode", RawMessage(b"")
    yield "truncated", "decode", RawMessage(plain[:-2])
    yield "trailing", "decode", RawMessage(plain + b"\x00")
    yield "JSON", "decode", RawMessage(json.dumps(vector, default=str).encode())
    yield "array bomb", "decode", RawMessage(plain[: -4 * len(good) - 2] + LONGEST)
    yield "union out of range", "decode", RawMessage(_other_branch(vector, encode))
    yield "unknown schema", "schema", RawMessage(framed_by(2**31 - 1, plain))
    yield "no origin", "predicted", RawMessage(encode(vector | {"origin": None}))
    yield "no key", "predicted", RawMessage(plain, key=None)
    yield "tombstone", "skip", RawMessage(None)


def _other_branch(vector: dict[str, Any], encode: Encode) -> bytes:
    """Return a vector that names a third branch of the union of its origin."""
    without, features = vector | {"origin": None}, 4 * len(vector["features"]) + 2
    plain = encode(without)
    at = len(plain) - features - 1
    assert plain[at] == 0, "the branch of null lies before the features"
    return plain[:at] + b"\x04" + plain[at + 1 :]


def in_time(message: RawMessage, now_ms: int) -> RawMessage:
    """Return a record of now."""
    return replace(message, timestamp_ms=now_ms)
