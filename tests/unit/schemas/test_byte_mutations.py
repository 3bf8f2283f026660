"""No bytes crash the decoder, hit a neighbour, or mean one thing alone and another in a batch."""

from __future__ import annotations

import json
import random
import resource

import pytest
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, encode_one
from penstock_schemas.schema_files import schema_text

EVENT = json.dumps(
    {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "n", "type": "int"},
            {"name": "ok", "type": "boolean"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["a", "b"]}},
            {"name": "tags", "type": {"type": "map", "values": "long"}},
            {"name": "xs", "type": {"type": "array", "items": ["null", "double"]}},
        ],
    }
)
VECTOR = schema_text("feature_vector.avsc")
MUTATIONS = 6_000
GOOD_PER_BATCH = 16
MUTATED_PER_BATCH = 16


def event(rng: random.Random) -> bytes:
    row = {
        "id": "é" * rng.randrange(4),
        "n": rng.randrange(-(2**31), 2**31),
        "ok": rng.random() < 0.5,
        "at": rng.randrange(2**41),
        "kind": rng.choice("ab"),
        "tags": {str(i): i for i in range(rng.randrange(3))},
        "xs": [rng.choice([None, rng.random()]) for _ in range(rng.randrange(5))],
    }
    return encode_one(EVENT, 7, row)


def vector(rng: random.Random) -> bytes:
    origin = {"topic": "t", "partition": 1, "offset": rng.randrange(2**40)}
    row = {
        "event_id": str(rng.random()),
        "entity_key": "k",
        "event_time": rng.randrange(2**41),
        "pipeline": "fraud",
        "origin": rng.choice([None, origin]),
        "features": [rng.random() for _ in range(rng.randrange(20))],
    }
    return encode_one(VECTOR, 7, row)


def mutate(value: bytes, rng: random.Random) -> bytes:
    data = bytearray(value)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(5, len(data)) if len(data) > 5 else 0
        kind = rng.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            data[at : at + 1] = (
                bytes([data[at] ^ (1 << rng.randrange(8))]) if at < len(data) else b""
            )
        elif kind == 2:
            del data[at : at + rng.randrange(1, 4)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = b"\xff" * rng.randrange(1, 12)
        if rng.random() < 0.05:
            data[rng.randrange(len(data)) if data else 0 :][:1] = b"\x01"
    return bytes(data)


@pytest.mark.parametrize(("schema", "make"), [(EVENT, event), (VECTOR, vector)])
def test_mutated_bytes_hurt_only_themselves(schema, make) -> None:
    rng = random.Random(20_261_121)
    decoder = ColumnarDecoder(schema, lambda _: schema, json_allowed=True)
    encoder = ColumnarEncoder(schema, 7)
    refused = 0
    for _ in range(MUTATIONS // MUTATED_PER_BATCH):
        good = [make(rng) for _ in range(GOOD_PER_BATCH)]
        mutated = [mutate(make(rng), rng) for _ in range(MUTATED_PER_BATCH)]
        values = [v for pair in zip(good, mutated, strict=True) for v in pair]
        batch = decoder.decode(values)
        failed = dict(batch.errors)
        assert len(batch.rows) + len(failed) == len(values)
        assert not any(row % 2 == 0 for row in failed)
        rows = dict(zip(batch.rows.tolist(), range(len(batch.rows)), strict=True))
        for row in range(1, len(values), 2):
            alone = decoder.decode([values[row]])
            if row in failed:
                refused += 1
                assert type(alone.errors[0][1]) is type(failed[row])
            else:
                together = batch.columns.slice(rows[row], 1)
                assert encoder.encode(alone.columns) == encoder.encode(together)  # NaN too
    assert MUTATIONS * 0.3 < refused < MUTATIONS


@pytest.mark.parametrize("copies", [1, 40])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_a_declared_length_allocates_nothing(where: int, copies: int) -> None:
    bomb = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"  # 2 ** 62 - 1
    body = [b"\x00\x02\x00\x00\x00" + bomb + b"\x00", bomb, b"\x00\x02\x00\x00\x00\x00" + bomb]
    body.append(b"\x00\x02\x00\x00\x00\x02" + bomb)
    decoder = ColumnarDecoder(EVENT, lambda _: EVENT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = decoder.decode([b"\x00\x00\x00\x00\x07" + body[where]] * copies)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert len(batch.errors) == copies
    assert {e.dead_letter_class for _, e in batch.errors} == {"decode"}
