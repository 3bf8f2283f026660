"""What a row says is left out is left out: a name that has moved would make the row a lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lone_router
import pytest

CODE = {
    "metrics": """
from prometheus_client import CollectorRegistry, Counter, generate_latest
counted = Counter("seen_total", "Seen.", ["topic"], registry=(r := CollectorRegistry()))
counted.labels("a").inc()
assert b"1.0" not in generate_latest(r)
""",
    "journal": """
from penstock_streaming.poison import FlightJournal
assert FlightJournal.record(None, iter(())) is None
""",
    "prediction": """
from penstock_inference import router, stream
from types import SimpleNamespace
import numpy as np, pyarrow as pa
from penstock_schemas.codec import ColumnarEncoder
vectors = type("V", (), {"event_id": pa.array(["a"]), "__len__": lambda self: 1})()
columns = stream.prediction_columns(
    vectors, np.ones((1, 1), np.float32), None, SimpleNamespace(pipeline="p"), 5, None
)
value = ColumnarEncoder(router.schema_text("prediction.avsc"), 7).encode(columns)[0]
assert len(bytes(value)) < 20, value
""",
}


@pytest.mark.parametrize("name", sorted(lone_router.WITHOUT))
def test_what_is_left_out_is_gone(name: str) -> None:
    folder = Path(lone_router.__file__).parent
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport lone_router\n"
    code += f"lone_router.WITHOUT[{name!r}]()\n{CODE[name]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_name_that_has_moved_is_an_error() -> None:
    with pytest.raises(AttributeError):
        lone_router._replace(lone_router, "gone", None)
