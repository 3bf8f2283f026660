"""What the monitor loop writes for others."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import encode_one
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import OutputColumns

from penstock_drift.monitor import Outcome
from penstock_drift.rekey import PARTITION


@dataclass(frozen=True, slots=True)
class SchemaIds:
    """Registry ids of what the monitor loop writes."""

    drift: int
    retrain: int
    drift_state: int


def outputs_of(config: PipelineConfig, ids: SchemaIds, outcome: Outcome) -> list[OutputColumns]:
    """Return the records that a batch has led to, encoded."""
    topics, key = config.topic_names, config.pipeline.encode()
    outputs = []
    for topic, schema_id, file, records in (
        (topics.drift, ids.drift, "drift_event.avsc", outcome.events),
        (topics.retrain, ids.retrain, "retrain_event.avsc", outcome.requests),
    ):
        if records:
            schema = schema_text(file)
            values = [encode_one(schema, schema_id, record.to_dict()) for record in records]
            n = len(values)
            outputs.append(OutputColumns(topic, [key] * n, values, [PARTITION] * n))
    return outputs
