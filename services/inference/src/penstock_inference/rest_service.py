"""One pipeline behind REST: its vectors, its scores, and where its predictions go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from penstock_inference.pipeline import (
    AnsweredBy,
    EventVector,
    Signature,
    Vectors,
    prediction_columns,
)
from penstock_inference.scoring import Scored, Scorer
from penstock_inference.tensors import Matrix


class Publisher(Protocol):
    """Takes predictions that were answered; `RestPredictions` in service."""

    def publish(self, key: bytes | None, predictions: pa.RecordBatch) -> None:
        """Queue predictions, or drop and count them."""


@dataclass(frozen=True, slots=True)
class PipelineService:
    """One pipeline behind REST.

    Parameters
    ----------
    width
        Number of features.
    vector
        Makes the vector of an event; blocking, runs on ``executor``.
    """

    signature: Signature
    width: int
    scorer: Scorer
    publisher: Publisher
    vector: Callable[[bytes], EventVector]
    executor: Executor | None = None

    async def event_vector(self, body: bytes) -> EventVector:
        """Return the vector of an event given by its named fields."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self.vector, body)

    def publish(
        self, key: str | None, ids: list[str], time_ms: int, scored: Scored, m: Matrix
    ) -> None:
        """Queue what was answered for the topic of REST predictions."""
        n = len(ids)
        # Not by way of datetime64, whose smallest number is no time at all.
        times = pa.array(np.full(n, time_ms, dtype=np.int64)).cast(pa.timestamp("ms"))
        origin = pa.nulls(
            n,
            pa.struct({"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64()}),
        )
        vectors = Vectors(pa.array(ids, pa.string()), times, m, origin)
        self.publisher.publish(
            None if key is None else key.encode(),
            prediction_columns(
                vectors, scored.scores, AnsweredBy((scored.route,)), self.signature, now_ms()
            ),
        )


def now_ms() -> int:
    """Return milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000
