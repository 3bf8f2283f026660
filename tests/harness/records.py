"""Bad and odd records, each with what it must become, and the producer that can send them.

`FORMS` are events that break the contract, with the dead-letter class that the contract's table
promises; on purpose independent of the simulator's own list. `odd_events` and `odd_vectors` list
odd and bad records of a topic. `send` writes what no client library lets its caller write:
timestamps of 0 and -1, header names that are no text, batches that say one codec and hold another;
each record is one batch of its own, written by hand.

References
----------
Kafka protocol guide: Produce request version 7; record batch of magic 2.
"""

from __future__ import annotations

import gzip
import json
import math
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

Row = dict[str, Any]
Encode = Callable[[Row], bytes]
MEBIBYTE: Final = 1024 * 1024
NO_SUCH_SCHEMA: Final = 2_000_000_011


@dataclass(frozen=True, slots=True)
class Form:
    """How an event is sent.

    Parameters
    ----------
    becomes
        A dead-letter class, predicted, or skip.
    value
        Makes the record's value from the row and the Avro encoder.
    keyed
        Whether the record has its key.
    """

    becomes: str
    value: Callable[[Row, Encode], bytes | None]
    keyed: bool = True


def _json(row: Row) -> bytes:
    return json.dumps(row).encode()


def _without(row: Row, field: str) -> Row:
    return {name: value for name, value in row.items() if name != field}


FORMS: Final[dict[str, Form]] = {
    "wrong magic byte": Form("decode", lambda r, avro: b"\x01" + avro(r)[1:]),
    "empty": Form("decode", lambda r, avro: b""),
    "four bytes": Form("decode", lambda r, avro: avro(r)[:4]),
    "prefix only": Form("decode", lambda r, avro: avro(r)[:5]),
    "truncated": Form("decode", lambda r, avro: avro(r)[:-4]),
    "trailing": Form("decode", lambda r, avro: avro(r) + b"\x00"),
    "broken json": Form("decode", lambda r, avro: _json(r)[:-1]),
    "length bomb": Form("decode", lambda r, avro: avro(r)[:5] + b"\xfe\xff\xff\xff\xff\x7f"),
    "unknown schema": Form(
        "schema", lambda r, avro: struct.pack(">bI", 0, NO_SUCH_SCHEMA) + avro(r)[5:]
    ),
    "json field missing": Form("schema", lambda r, avro: _json(_without(r, "amount"))),
    "json field mistyped": Form("schema", lambda r, avro: _json(r | {"amount": "much"})),
    "json field null": Form("schema", lambda r, avro: _json(r | {"currency": None})),
    "amount too small": Form("rule", lambda r, avro: avro(r | {"amount": -1.0})),
    "amount nan": Form("rule", lambda r, avro: avro(r | {"amount": math.nan})),
    "amount infinite": Form("rule", lambda r, avro: avro(r | {"amount": math.inf})),
    "currency": Form("rule", lambda r, avro: avro(r | {"currency": "euro"})),
    "json rule": Form("rule", lambda r, avro: _json(r | {"amount": 0.0})),
    "no key": Form("rule", lambda r, avro: avro(r), keyed=False),
    "oversize": Form("oversize", lambda r, avro: avro(r | {"merchant_id": "m" * MEBIBYTE})),
    "tombstone": Form("skip", lambda r, avro: None),
    # Unusual, and good.
    "json": Form("predicted", lambda r, avro: _json(r)),
    "json whole number": Form("predicted", lambda r, avro: _json(r | {"amount": 12})),
    "category never seen": Form(
        "predicted", lambda r, avro: avro(r | {"merchant_category": "zoo"})
    ),
    "device unknown": Form("predicted", lambda r, avro: avro(r | {"device_age_days": None})),
    "text": Form("predicted", lambda r, avro: avro(r | {"merchant_id": "Ünïcode\u0000'<b>\n"})),
}
"""Forms of a card transaction, by name."""

RARE: Final = {"oversize": 6}
"""At most so many of a form in one run: they are large."""


PRODUCE, VERSION = 0, 7
CLIENT: Final = b"raw"
CALL_S: Final = 20.0
CASTAGNOLI: Final = 0x82F63B78
RawHeaders = Sequence[tuple[bytes, bytes | None]]


class Refused(AssertionError):
    """The broker has refused a batch; ``code`` is Kafka's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the broker answers with error {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class RawMessage:
    """One record, any part of it as odd as its sender likes.

    Parameters
    ----------
    codec
        What the batch says it is compressed with: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    zipped
        Whether it really is, by gzip.
    """

    value: bytes | None
    key: bytes | None = b"k"
    timestamp_ms: int = 1_700_000_000_000
    headers: RawHeaders = ()
    codec: int = 0
    zipped: bool = False


def send(bootstrap: str, topic: str, partition: int, message: RawMessage) -> int:
    """Write one record and return its offset.

    Raises
    ------
    Refused
        If the broker does not take it.
    """
    records = _batch(message)
    body = struct.pack(">hhi", -1, -1, int(CALL_S * 1000))  # no transaction, all replicas
    body += struct.pack(">i", 1) + _text(topic.encode()) + struct.pack(">ii", 1, partition)
    body += struct.pack(">i", len(records)) + records
    request = struct.pack(">hhi", PRODUCE, VERSION, 1) + _text(CLIENT) + body
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=CALL_S) as link:
        link.sendall(struct.pack(">i", len(request)) + request)
        answer = _exactly(link, struct.unpack(">i", _exactly(link, 4))[0])
    # correlation, one topic and its name, one partition: number, error, offset
    at = 4 + 4 + 2 + len(topic.encode()) + 4 + 4
    code, offset = struct.unpack_from(">hq", answer, at)
    if code:
        raise Refused(code)
    return int(offset)


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        assert part, "the broker has closed the connection"
        data += part
    return data


def _text(data: bytes) -> bytes:
    return struct.pack(">h", len(data)) + data


def _batch(message: RawMessage) -> bytes:
    fields = b"\x00" + _varint(0) + _varint(0)  # attributes, and no distance from the batch's first
    fields += _nullable(message.key) + _nullable(message.value) + _varint(len(message.headers))
    for name, value in message.headers:
        fields += _varint(len(name)) + name + _nullable(value)
    record = _varint(len(fields)) + fields
    if message.zipped:
        record = gzip.compress(record, mtime=0)
    stamp = message.timestamp_ms
    summed = struct.pack(">hiqqqhii", message.codec, 0, stamp, stamp, -1, -1, -1, 1) + record
    tail = struct.pack(">ibI", -1, 2, crc32c(summed)) + summed
    return struct.pack(">qi", 0, len(tail)) + tail


def _nullable(data: bytes | None) -> bytes:
    return _varint(-1) if data is None else _varint(len(data)) + data


def _varint(number: int) -> bytes:
    raw, found = (number << 1) ^ (number >> 63), bytearray()
    while raw > 0x7F:
        found.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*found, raw])


def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
        found.append(byte)
    return found


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the checksum of a record batch.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


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
