"""Framed Avro records: bytes of several layouts, mutated, and a judge of what they are.

The judge says it twice: by our strict reader of one record, and by fastavro. The strict reader is
what a batch must agree with. fastavro lets more pass; what it reads to the last byte, finds valid
and writes back unchanged is good beyond doubt, and what it cannot read or leaves bytes of is bad
beyond doubt.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import pyarrow as pa
from penstock_schemas.avro_columns import columns_of
from penstock_schemas.avro_rows import parsed, row_reader
from penstock_schemas.codec import ColumnarEncoder, encode_one
from penstock_schemas.errors import RecordError, SchemaError
from penstock_schemas.schema_files import projection, schema_text

SCHEMA_ID: Final = 7
HEAD: Final = b"\x00\x00\x00\x00\x07"


class AvroJudge:
    """Judge of the values of one writer's schema, read as one reader's schema.

    Parameters
    ----------
    writer, reader
        Schema texts; the writer's has the id `SCHEMA_ID`, no other id is known.
    """

    def __init__(self, writer: str, reader: str) -> None:
        self._reader = row_reader(writer, reader)
        self._writer = parsed(writer)
        self._wanted = None if writer == reader else parsed(_named_alike(reader, writer))

    def verdict(self, value: bytes) -> dict[str, Any] | str:
        """Return the row that a value is, or its dead-letter class."""
        if len(value) < len(HEAD) or value[0] != 0:
            return "decode"
        if not value.startswith(HEAD):
            return "schema"
        try:
            row = self._reader.read(value)
        except RecordError as exc:
            if self._is_plain(value) and not isinstance(exc, SchemaError):
                raise AssertionError(f"the strict reader refuses {value!r}, which is good") from exc
            return exc.dead_letter_class
        stream = io.BytesIO(value[len(HEAD) :])
        read = fastavro.schemaless_reader(stream, self._writer, self._wanted)
        assert stream.tell() == len(value) - len(HEAD), (value, "the strict reader left bytes")
        assert repr(read) == repr(row), (value, "the strict reader reads another record")
        return row

    def _is_plain(self, value: bytes) -> bool:
        """Tell whether fastavro reads, accepts and writes back the very bytes."""
        stream, again = io.BytesIO(value[len(HEAD) :]), io.BytesIO()
        try:
            row = fastavro.schemaless_reader(stream, self._writer, None)
            fastavro.schemaless_writer(again, self._writer, row)
            is_valid = fastavro.validate(row, self._writer, raise_errors=False)
        except Exception:  # it raises whatever the bytes make it stumble over
            return False
        return is_valid and again.getvalue() == value[len(HEAD) :]


def resolve(writer: str, schema_id: int) -> str:
    """Return the writer's schema by its id; no other id is known."""
    if schema_id != SCHEMA_ID:
        raise SchemaError("unknown schema id", schema_id=schema_id)
    return writer


def same_rows(columns: pa.RecordBatch, rows: list[dict[str, Any]], text: str) -> bool:
    """Tell whether columns hold rows; a NaN equals any other, whose bits no Python float keeps."""
    encoder = ColumnarEncoder(text, SCHEMA_ID)
    found, wanted = (encoder.encode(c) for c in (columns, columns_of(rows, columns.schema)))
    return found == wanted or (
        len(found) == len(wanted)
        and all(
            a == b or repr(_plain(a, text)) == repr(_plain(b, text))
            for a, b in zip(found, wanted, strict=True)
        )
    )


def _plain(value: bytes, text: str) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(value[len(HEAD) :]), parsed(text), None)


def _named_alike(reader: str, writer: str) -> str:
    return json.dumps({**json.loads(reader), "name": json.loads(writer)["name"]})


EDGES: Final = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63))
FLOATS: Final = (0.0, -0.0, 5e-324, 1.7e308, float("nan"), float("inf"), float("-inf"))
LONGEST_VARINT: Final = b"\xff" * 9 + b"\x01"


@dataclass(frozen=True, slots=True)
class Layout:
    """A writer's schema, the reader's, and rows of the writer's.

    Parameters
    ----------
    name
        Which of the decoders reads it.
    """

    name: str
    writer: str
    reader: str
    row: Callable[[random.Random], dict[str, Any]]

    def value(self, rng: random.Random) -> bytes:
        """Return one good value."""
        return encode_one(self.writer, SCHEMA_ID, self.row(rng))


def record(*fields: tuple[str, Any]) -> str:
    """Return the text of a record schema."""
    found = [{"name": name, "type": kind} for name, kind in fields]
    return json.dumps({"type": "record", "name": "E", "fields": found})


MILLIS: Final = {"type": "long", "logicalType": "timestamp-millis"}
KIND: Final = {"type": "enum", "name": "K", "symbols": ["a", "b"]}
FLAT: Final = record(
    ("id", "string"), ("n", "int"), ("ok", "boolean"), ("at", MILLIS), ("kind", KIND),
    ("x", ["null", "double"]), ("note", ["null", "string"]), ("y", "float"),
)  # fmt: skip
NESTED: Final = record(
    ("id", "string"), ("n", "int"), ("ok", "boolean"), ("at", MILLIS), ("kind", KIND),
    ("tags", {"type": "map", "values": "long"}),
    ("xs", {"type": "array", "items": ["null", "double"]}),
)  # fmt: skip
ODD: Final = record(
    ("id", "string"), ("raw", "bytes"), ("n", "long"),
    ("ys", {"type": "array", "items": "bytes"}),
)  # fmt: skip
OLDER: Final = record(("gone", "int"), ("id", "string"), ("n", "int"), ("x", ["null", "float"]))
NEWER: Final = record(("id", "string"), ("n", "long"), ("x", ["null", "double"]))
VECTOR: Final = schema_text("feature_vector.avsc")
ROUTED: Final = projection("feature_vector.avsc", ("event_id", "event_time", "origin", "features"))


def _text(rng: random.Random) -> str:
    return "".join(rng.choice("aé\0€😀'\n") for _ in range(rng.randrange(5)))


def _float(rng: random.Random) -> float:
    return rng.choice(FLOATS) if rng.random() < 0.3 else rng.uniform(-9, 9)


def _int(rng: random.Random, bits: int) -> int:
    edge = rng.choice(EDGES)
    return edge if -(2 ** (bits - 1)) <= edge < 2 ** (bits - 1) else rng.randrange(2**20)


def _flat(rng: random.Random) -> dict[str, Any]:
    return {
        "id": _text(rng),
        "n": _int(rng, 32),
        "ok": rng.random() < 0.5,
        "at": rng.randrange(2**41),
        "kind": rng.choice("ab"),
        "x": rng.choice([None, _float(rng)]),
        "note": rng.choice([None, _text(rng)]),
        "y": rng.uniform(-9, 9),
    }


def _nested(rng: random.Random) -> dict[str, Any]:
    return {
        **_flat(rng),
        "tags": {str(i): i for i in range(rng.randrange(3))},
        "xs": [rng.choice([None, _float(rng)]) for _ in range(rng.randrange(5))],
    }


def _odd(rng: random.Random) -> dict[str, Any]:
    ys = [rng.randbytes(rng.randrange(4)) for _ in range(rng.randrange(3))]
    return {"id": _text(rng), "raw": rng.randbytes(3), "n": _int(rng, 64), "ys": ys}


def _older(rng: random.Random) -> dict[str, Any]:
    x = rng.choice([None, rng.uniform(-9, 9)])
    return {"gone": _int(rng, 32), "id": _text(rng), "n": _int(rng, 32), "x": x}


def _vector(rng: random.Random) -> dict[str, Any]:
    return {
        "event_id": _text(rng),
        "entity_key": "k",
        "event_time": rng.randrange(2**41),
        "pipeline": "fraud",
        "origin": rng.choice(
            [None, {"topic": "t", "partition": 1, "offset": rng.randrange(2**40)}]
        ),
        "features": [rng.random() for _ in range(rng.randrange(20))],
    }


LAYOUTS: Final = (
    Layout("compiled", FLAT, FLAT, _flat),
    Layout("compiled vector", VECTOR, VECTOR, _vector),
    Layout("projected", VECTOR, ROUTED, _vector),
    Layout("in Rust", NESTED, NESTED, _nested),
    Layout("row by row", ODD, ODD, _odd),
    Layout("resolved", OLDER, NEWER, _older),
)
"""One for each way in which a batch is read."""


def mutate(value: bytes, rng: random.Random) -> bytes:
    """Return a value after 1 to 4 accidents, one in 20 of them within its prefix."""
    data = bytearray(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        first = 0 if rng.random() < 0.05 else 5
        at = rng.randrange(first, len(data)) if len(data) > first else 0
        accident = rng.randrange(7)
        if accident == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif accident == 1 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif accident == 2:
            del data[at : at + rng.randrange(1, 4)]
        elif accident == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif accident == 4:
            del data[at:]
        elif accident == 5:
            data[at:at] = b"\xff" * rng.randrange(1, 12)
        else:
            data[at : at + 1] = rng.choice((b"\x80\x00", b"\x01\x02", LONGEST_VARINT, b"\xc0\x80"))
    return bytes(data)
