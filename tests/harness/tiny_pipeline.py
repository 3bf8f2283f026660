"""A second pipeline made from a folder alone: a YAML file, an Avro schema and a small CSV."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from harness.spoilt import Row

NAME: Final = "pumps"
PIPELINE: Final = f"""\
pipeline: {NAME}
description: Pumps that are about to fail
partitions: 2
event: {{key: pump_id}}
rules:
  - {{field: pressure, min: 0, max: 100}}
features:
  - {{name: vibration, from: vibration}}
  - {{name: pressure, from: pressure}}
  - {{name: heat, from: temperature}}
  - {{name: vibration_mean, aggregate: {{function: mean, of: vibration, half_life_s: 3600}}}}
model:
  kind: logistic
  bootstrap: {{data: history.csv, label: failed}}
threshold: 0.5
"""
EVENT: Final = {
    "type": "record",
    "name": "PumpReading",
    "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "pump_id", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "vibration", "type": "double"},
        {"name": "pressure", "type": "double"},
        {"name": "temperature", "type": "double"},
    ],
}
HISTORY_ROWS: Final = 600


def write_folder(root: Path) -> Path:
    """Write the pipeline's folder under ``root`` and return it."""
    folder = root / NAME
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(PIPELINE)
    (folder / "event.avsc").write_text(json.dumps(EVENT))
    rng = random.Random(3)
    with (folder / "history.csv").open("w", newline="") as stream:
        names = [field["name"] for field in EVENT["fields"]]  # type: ignore[index]
        writer = csv.DictWriter(stream, [*names, "failed"])
        writer.writeheader()
        for row in readings(rng, HISTORY_ROWS):
            writer.writerow(row | {"failed": int(row["vibration"] > 5.0)})
    return folder


def readings(rng: random.Random, count: int) -> Iterator[Row]:
    """Yield readings; those with a vibration over 5 fail."""
    start = time.time_ns() // 1_000_000 - count * 1_000
    for number in range(count):
        failing = rng.random() < 0.3
        yield {
            "event_id": f"r{rng.getrandbits(48):x}",
            "pump_id": f"pump-{rng.randrange(20)}",
            "event_time": start + number * 1_000,
            "vibration": rng.gauss(9.0, 1.0) if failing else rng.gauss(1.5, 1.0),
            "pressure": rng.uniform(20.0, 60.0),
            "temperature": rng.gauss(70.0, 8.0),
        }
