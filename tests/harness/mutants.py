"""Avro records of several layouts, and what becomes of their bytes on a bad day."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from harness.avro_judge import SCHEMA_ID
from penstock_schemas.codec import encode_one
from penstock_schemas.schema_files import projection, schema_text

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
