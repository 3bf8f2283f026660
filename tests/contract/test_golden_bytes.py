"""The bytes of one record of each schema, frozen: what is on disk today must be read for ever."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one
from penstock_schemas.schema_files import schema_text

PREFIX = "0000000102"  # schema id 258
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "feature_vector": (
        {
            "event_id": "e-1",
            "entity_key": "k",
            "event_time": 1_700_000_000_123,
            "pipeline": "fraud",
            "origin": {"topic": "fraud.events.v1", "partition": 3, "offset": 2**40},
            "features": [0.5, -1.0],
        },
        "06652d31026bf6a1abfef9620a6672617564021e66726175642e6576656e74732e7631068080808080400400"
        "00003f000080bf00",
    ),
    "interaction": (
        {
            "event_id": "e-1",
            "label": 1.0,
            "kind": "chargeback",
            "value": None,
            "occurred_at": 1_700_000_000_123,
        },
        "06652d3102000000000000f03f02146368617267656261636b00f6a1abfef962",
    ),
    "prediction": (
        {
            "event_id": "e-1",
            "event_time": 1_700_000_000_123,
            "predicted_at": 1_700_000_000_456,
            "pipeline": "fraud",
            "model_name": "fraud",
            "model_version": "1",
            "variant": "champion",
            "scores": [0.75],
            "decision": True,
            "threshold": 0.5,
            "features": [0.5, -1.0],
            "origin": None,
            "attempt": "a",
            "outcome": "duplicate",
        },
        "06652d31f6a1abfef96290a7abfef9620a66726175640a66726175640231106368616d70696f6e020000403f"
        "00010000003f040000003f000080bf0000026104",
    ),
    "routing_state": (
        {
            "pipeline": "fraud",
            "revision": 2,
            "updated_at": 1_700_000_000_123,
            "updated_by": "cli",
            "versions": [
                {
                    "model_name": "fraud",
                    "version": "1",
                    "served_as": "fraud__1",
                    "alias": "champion",
                    "weight": 100,
                    "digest": "sha256:00",
                    "signature": "",
                    "run_id": "r",
                    "git_commit": "",
                    "state": "serving",
                }
            ],
        },
        "0a667261756404f6a1abfef96206636c69020a667261756402311066726175645f5f31106368616d70696f6e"
        "c801127368613235363a3030000272000e73657276696e6700",
    ),
}


def test_every_schema_has_golden_bytes() -> None:
    shipped = {f.name for f in files("penstock_schemas").iterdir() if f.name.endswith(".avsc")}
    assert shipped == {f"{name}.avsc" for name in GOLDEN}


@pytest.mark.parametrize("name", GOLDEN)
def test_record_becomes_its_golden_bytes_and_back(name: str) -> None:
    row, expected = GOLDEN[name]
    text, golden = schema_text(f"{name}.avsc"), bytes.fromhex(PREFIX + expected)
    assert encode_one(text, 258, row) == golden
    assert decode_one(golden, lambda _: text, text) == row


@pytest.mark.parametrize("copies", [1, 50])
@pytest.mark.parametrize("name", GOLDEN)
def test_columns_become_golden_bytes_and_back(name: str, copies: int) -> None:
    text = schema_text(f"{name}.avsc")
    golden = [bytes.fromhex(PREFIX + GOLDEN[name][1])] * copies
    batch = ColumnarDecoder(text, lambda _: text).decode(golden)
    assert batch.errors == []
    assert ColumnarEncoder(text, 258).encode(batch.columns) == golden
