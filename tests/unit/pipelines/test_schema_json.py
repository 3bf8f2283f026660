from __future__ import annotations

import json
from pathlib import Path

from penstock_pipelines.schema_json import PUBLISHED, schema_json

REPOSITORY = Path(__file__).parents[3]


def test_published_schema_is_fresh() -> None:
    assert (REPOSITORY / PUBLISHED).read_text() == schema_json(), (
        "stale: run python -m penstock_pipelines.schema_json"
    )


def test_every_field_says_what_it_means() -> None:
    schema = json.loads(schema_json())
    for name, section in {**schema["$defs"], "PipelineConfig": schema}.items():
        for key, field in section["properties"].items():
            nested = "$ref" in json.dumps(field)
            assert nested or field.get("description"), f"{name}.{key} has no description"
