"""Predictions that nobody waits for, produced at most once: those of REST and those of shadows.

Encoding one row costs about a third of a REST request, so it is done aside, for all that have been
queued meanwhile at once. What does not reach its topic is counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaException, Producer
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import PenstockError
from penstock_schemas.schema_files import schema_text
from penstock_streaming.settings import KafkaSettings

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.5
ROWS_AT_ONCE: Final = 1_000
BY_KEY: Final = -1
"""The partition of a record that goes where its key goes."""

Queued = tuple[pa.RecordBatch, Sequence[bytes | None], npt.NDArray[np.int32] | None]
"""Predictions, and the key and partition of each."""


class PredictionPublisher:
    """Producer of predictions to one topic. Thread-safe; never blocks, never raises.

    Parameters
    ----------
    queue_rows
        Predictions waiting to be encoded or produced; beyond it they are dropped.
    dropped
        Is told how many were not produced.
    rows_at_once
        Rows encoded in one go: other threads wait while that runs.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        registry: RegistryClient,
        topic: str,
        *,
        queue_rows: int,
        dropped: Callable[[int], object],
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self._registry = registry
        self._topic = topic
        self._dropped = dropped
        self._rows_at_once = rows_at_once
        self._encoder: ColumnarEncoder | None = None
        self._stop = threading.Event()
        self._queue_rows = queue_rows
        self._queue: queue.SimpleQueue[Queued] = queue.SimpleQueue()
        self._rows = 0
        self._lock = threading.Lock()
        self._producer = Producer(
            {
                **kafka.as_librdkafka(),
                # At most once: an answer never waits for it, and none is produced twice.
                "acks": 1,
                "retries": 0,
                "linger.ms": 20,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                "queue.buffering.max.messages": queue_rows,
                "delivery.report.only.error": True,
            }
        )
        self._thread = threading.Thread(target=self._run, name=f"to-{topic}", daemon=True)
        self._thread.start()

    def publish(
        self,
        predictions: pa.RecordBatch,
        keys: Sequence[bytes | None],
        partitions: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Queue predictions, each with its key.

        Parameters
        ----------
        partitions
            Of each; where not given, a prediction goes where its key goes.
        """
        rows = predictions.num_rows
        with self._lock:
            is_full = self._rows + len(self._producer) + rows > self._queue_rows
            if self._encoder is None or self._stop.is_set() or is_full:
                self._dropped(rows)
                return
            self._rows += rows
        self._queue.put((predictions, keys, partitions))

    def close(self) -> None:
        """Deliver what is queued, within the delivery time-out."""
        with self._lock:
            self._stop.set()  # nothing is queued after it
        self._thread.join(DELIVERY_TIMEOUT_S)
        left = self._producer.flush(DELIVERY_TIMEOUT_S) + self._rows
        if left:
            self._dropped(left)

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._dropped(1)

    def _run(self) -> None:
        wait_s = 0.0
        while self._encoder is None and not self._stop.wait(wait_s):
            wait_s = POLL_S
            text = schema_text("prediction.avsc")
            try:
                schema_id = self._registry.register(f"{self._topic}-value", text)
                self._encoder = ColumnarEncoder(text, schema_id)
            except PenstockError as exc:
                logger.warning("%s: predictions are dropped: %s", self._topic, exc)
        while not self._stop.is_set() or not self._queue.empty():
            if queued := self._next_queued():
                self._produce(queued)
            self._producer.poll(0.0)

    def _next_queued(self) -> list[Queued]:
        """Wait a moment for predictions, and take all that there are."""
        taken: list[Queued] = []
        rows = 0
        try:
            while rows < self._rows_at_once:
                taken.append(self._queue.get(not taken, POLL_S))
                rows += taken[-1][0].num_rows
        except queue.Empty:
            pass
        return taken

    def _produce(self, queued: list[Queued]) -> None:
        keys = [key for _, of_batch, _ in queued for key in of_batch]
        partitions: list[int] = []
        for predictions, _, given in queued:
            by_key = [BY_KEY] * predictions.num_rows
            partitions += by_key if given is None else given.tolist()
        try:
            (merged,) = (
                pa.Table.from_batches([p for p, _, _ in queued]).combine_chunks().to_batches()
            )
            assert self._encoder is not None  # noqa: S101 - narrows the type
            values = self._encoder.encode(merged)
        except Exception:
            # A defect; without this thread every later prediction would be lost too.
            logger.exception("predictions that cannot be written")
            values = []
        lost = len(keys) - len(values)
        for value, key, partition in zip(values, keys, partitions, strict=False):
            try:
                self._producer.produce(
                    self._topic, value, key, partition, on_delivery=self._on_delivery
                )
            except (BufferError, KafkaException):
                lost += 1
        with self._lock:
            self._rows -= len(keys)
        if lost:
            self._dropped(lost)
