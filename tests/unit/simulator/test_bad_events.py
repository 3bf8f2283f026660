from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path

import fastavro
import numpy as np
import pytest
from penstock_pipelines.loader import load_pipeline
from penstock_simulator.bad_events import EXPECTED, UNKNOWN_SCHEMA_ID, Spoiler, draw_kinds
from penstock_simulator.card_transactions import CardTransactions
from penstock_simulator.foreign_producer import avro_writer, rows_of

FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")
SCHEMA = fastavro.parse_schema(json.loads(FRAUD.event_schema))
BATCH = CardTransactions(1).generate(20, 1_750_000_000_000, 0.2)
ROWS = rows_of(BATCH.columns)
WRITE = avro_writer(FRAUD.event_schema, 42)
SPOILER = Spoiler(FRAUD.config, BATCH.columns.schema, WRITE)


def read(value: bytes) -> dict[str, object]:
    stream = BytesIO(value[5:])
    row = fastavro.schemaless_reader(stream, SCHEMA, None)
    assert stream.read() == b""
    return row


def test_good_events_round_trip() -> None:
    for row in ROWS:
        value = WRITE(row)
        assert value[:5] == b"\x00\x00\x00\x00\x2a"
        got = read(value)
        assert got["amount"] == row["amount"]
        assert got["event_time"].timestamp() * 1000 == pytest.approx(row["event_time"])


def test_fraud_has_every_kind() -> None:
    assert set(SPOILER.kinds) == set(EXPECTED)


@pytest.mark.parametrize("row", ROWS[:3], ids=lambda r: r["event_id"])
def test_each_kind_breaks_what_it_says(row: dict[str, object]) -> None:
    spoilt = {kind: SPOILER.spoil(row, kind) for kind in EXPECTED}
    values = {kind: event.value for kind, event in spoilt.items()}
    assert all(event.event_id == row["event_id"] for event in spoilt.values())
    assert values["wrong_magic"][0] != 0
    assert len(values["short"]) < 5
    assert values["empty"] == b""
    for kind in ("truncated", "trailing"):
        with pytest.raises((EOFError, AssertionError)):
            read(values[kind])
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        json.loads(values["invalid_json"])
    assert int.from_bytes(values["unknown_schema_id"][1:5], "big") == UNKNOWN_SCHEMA_ID
    assert "event_time" not in json.loads(values["json_field_missing"])
    assert json.loads(values["json_field_mistyped"])["event_time"] == "yesterday"
    assert json.loads(values["json"]) == row
    assert read(values["rule_broken"])["amount"] < 0.01
    assert math.isnan(read(values["not_a_number"])["amount"])
    assert spoilt["null_key"].key is None
    assert read(values["null_key"])
    assert len(values["oversize"]) > FRAUD.config.limits.max_event_bytes
    assert values["tombstone"] is None
    assert spoilt["tombstone"].key == row["account_id"].encode()


def test_every_kind_appears_and_the_share_is_kept() -> None:
    drawn = draw_kinds(np.random.default_rng(0), 20_000, 0.01, SPOILER.kinds)
    assert set(drawn.values()) == set(EXPECTED)
    assert 140 < len(drawn) < 260
    assert draw_kinds(np.random.default_rng(0), 20_000, 0.0, SPOILER.kinds) == {}
