"""Batches of the drift service's inputs, and a history that a test keeps itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Message
from penstock_drift.observations import Observations, observations_of
from penstock_schemas.codec import ColumnarDecoder, ColumnarEncoder, decode_one, encode_one
from penstock_schemas.records import DriftState
from penstock_schemas.schema_files import schema_text
from penstock_streaming.handler import HandledBatch, MessageBatch
from penstock_streaming.in_flight import batch_of
from penstock_streaming.timing import Deadline

SCHEMA_ID = 7


def message(topic: str, offset: int, value: bytes | None, key: bytes = b"k") -> Message:
    return Message(topic=topic, partition=0, offset=offset, key=key, value=value, timestamp=(1, 5))


def records(file_name: str, rows: Sequence[dict[str, Any]]) -> MessageBatch:
    """Return records of a schema as a batch."""
    text = schema_text(file_name)
    values = [encode_one(text, SCHEMA_ID, row) for row in rows]
    return batch_of("in", [message("in", n, value) for n, value in enumerate(values)])


def decoder(reader: str, file_name: str) -> ColumnarDecoder:
    """Return a decoder of what `records` writes."""
    return ColumnarDecoder(reader, lambda _: schema_text(file_name))


def output_rows(handled: HandledBatch, file_name: str, topic: str) -> list[dict[str, Any]]:
    """Return what a handler writes to a topic."""
    text = schema_text(file_name)
    return [
        decode_one(value or b"", lambda _: text, text)
        for output in handled.outputs
        if output.topic == topic
        for value in output.values
    ]


def observation_batch(columns: pa.RecordBatch, first: int) -> MessageBatch:
    """Return observations as a batch of the monitor loop."""
    values = ColumnarEncoder(schema_text("observation.avsc"), SCHEMA_ID).encode(columns)
    return batch_of("o", [message("o", first + n, value) for n, value in enumerate(values)])


class MemoryHistory:
    """Committed observations and snapshots, in memory."""

    def __init__(self) -> None:
        self.columns: list[tuple[int, pa.RecordBatch]] = []
        self.states: list[DriftState] = []
        self.reads: list[tuple[int, int]] = []

    def newest_snapshot(self, deadline: Deadline) -> DriftState | None:
        return self.states[-1] if self.states else None

    def first_offset(self, deadline: Deadline) -> int:
        return 0

    def observations(self, start: int, end: int, deadline: Deadline) -> Iterator[Observations]:
        self.reads.append((start, end))
        for first, columns in self.columns:
            offsets = np.arange(first, first + len(columns))
            chosen = (offsets >= start) & (offsets < end)
            if chosen.any():
                yield observations_of(columns.filter(pa.array(chosen)), offsets[chosen])
