"""A producer that sends what no client library lets its caller send.

Timestamps of 0 and -1, header names that are no text, batches that say one codec and hold another:
each record is one batch of its own, written by hand.

References
----------
Kafka protocol guide: Produce request version 7; record batch of magic 2.
"""

from __future__ import annotations

import gzip
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
