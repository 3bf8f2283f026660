"""The hand-written loop with the whole Prediction as its output instead of four fields.

``p_bare.py`` runs unmodified; what it imports from its ``work`` module is what changes: every
field of our Prediction is written by fastavro. Usage: bare_full.py FOLDER_OF_P_BARE
"""

from __future__ import annotations

import io
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
from penstock_schemas.schema_files import schema_text


def full_batch(work: Any) -> Any:
    """Return a replacement of ``work.batch`` that writes whole Predictions."""
    import json

    schema = fastavro.parse_schema(json.loads(schema_text("prediction.avsc")))
    origin = {"topic": work.IN, "partition": 0, "offset": 0}
    fixed = {
        **{"pipeline": "bench", "model_name": "bench", "model_version": "1"},
        **{"variant": "champion", "threshold": 0.5, "attempt": "a", "outcome": "predicted"},
        "origin": origin,
    }

    def encode(record: dict[str, Any], score: float) -> bytes:
        buffer = io.BytesIO()
        buffer.write(b"\0\0\0\0\2")
        answer = {
            **fixed,
            "event_id": record["event_id"],
            "event_time": record["event_time"],
            "predicted_at": time.time_ns() // 1_000_000,
            "scores": [score],
            "decision": score >= 0.5,
            "features": record["features"],
        }
        fastavro.schemaless_writer(buffer, schema, answer)
        return buffer.getvalue()

    def batch(values: list[bytes]) -> list[bytes]:
        records = [work.decode(value) for value in values]
        scores = work.scorer()(np.array([r["features"] for r in records], dtype="f"))
        return [encode(r, s) for r, s in zip(records, scores, strict=True)]

    return batch


def main() -> None:
    """Run the loop."""
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(folder))
    import work  # type: ignore[import-not-found]

    work.batch = full_batch(work)
    runpy.run_path(str(folder / "p_bare.py"), run_name="__main__")


if __name__ == "__main__":
    main()
