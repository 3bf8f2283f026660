"""The bytes of one record of each schema, frozen: what is on disk today must be read for ever."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one
from penstock_schemas.schema_files import schema_text

PREFIX = "0000000102"  # schema id 258
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "audit_event": (
        {
            "event_id": "a-1",
            "operation_id": "o-1",
            "at": 1_700_000_000_123,
            "actor": "ann",
            "action": "replay",
            "subject": "fraud.events.v1",
            "phase": "progress",
            "outcome": "",
            "reason": "",
            "arguments": {"rate": "5"},
            "ranges": {"t/0@x": "3-7,9"},
            "counts": {"replayed": 6},
        },
        "06612d31066f2d31f6a1abfef96206616e6e0c7265706c61791e66726175642e6576656e74732e7631020000"
        "020872617465023500020a742f3040780a332d372c390002107265706c617965640c00",
    ),
    "drift_event": (
        {
            "event_id": "d-1",
            "episode_id": "ep-1",
            "pipeline": "fraud",
            "detected_at": 1_700_000_000_123,
            "detector": "adwin",
            "kind": "concept",
            "subject": "error",
            "statistic": 0.5,
            "threshold": 0.25,
            "baseline": 0.125,
            "model_name": "fraud",
            "model_version": "1",
            "window": {
                "topic": "fraud.observations.v1",
                "partition": 0,
                "first_offset": 5,
                "last_offset": 9,
                "rows": 4,
                "first_time": 1_700_000_000_123,
                "last_time": 1_700_000_000_123,
            },
            "reference_id": "sha256:00",
            "severity": "detected",
        },
        "06642d310865702d310a6672617564f6a1abfef9620a616477696e0e636f6e636570740a6572726f72000000"
        "000000e03f000000000000d03f000000000000c03f0a667261756402312a66726175642e6f62736572766174"
        "696f6e732e7631000a1208f6a1abfef962f6a1abfef962127368613235363a303002",
    ),
    "drift_state": (
        {
            "layout": "l",
            "offset": 9,
            "join_from": 5,
            "detectors": b"{}",
            "errors": b"\x00\x00\x00?",
            "expected": b"",
            "error_times": b"{\x00\x00\x00\x00\x00\x00\x00",
        },
        "026c120a047b7d080000003f00107b00000000000000",
    ),
    "observation": (
        {
            "event_id": "e-1",
            "time": 1_700_000_000_123,
            "label": None,
            "score": 0.75,
            "model_name": "fraud",
            "model_version": "1",
            "variant": "champion",
            "features": [0.5, -1.0],
        },
        "06652d31f6a1abfef9620002000000000000e83f0a66726175640231106368616d70696f6e040000003f0000"
        "80bf00",
    ),
    "retrain_event": (
        {
            "event_id": "r-1.finished",
            "request_id": "r-1",
            "pipeline": "fraud",
            "state": "finished",
            "at": 1_700_000_000_123,
            "source": "drift",
            "actor": "retrain-trigger",
            "cause_ids": ["d-1"],
            "reason": "",
            "data_since": 1_700_000_000_123,
            "job_id": "r-1",
            "run_id": "r",
            "model_version": "2",
            "verdict": "promoted",
            "metrics": {"auc": 0.5},
        },
        "18722d312e66696e697368656406722d310a667261756408f6a1abfef9620a64726966741e7265747261696e"
        "2d747269676765720206642d31000002f6a1abfef96206722d31027202321070726f6d6f7465640206617563"
        "000000000000e03f00",
    ),
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
