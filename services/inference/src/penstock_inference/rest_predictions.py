"""Predictions answered over REST, produced to their topic at most once; drops are counted.

Encoding one row costs about a third of its request, so it is done aside, for all that have been
answered meanwhile at once.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, Final

import pyarrow as pa
from confluent_kafka import KafkaException, Producer
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import PenstockError
from penstock_schemas.schema_files import schema_text
from penstock_streaming.settings import KafkaSettings
from prometheus_client import Counter

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.5
ROWS_AT_ONCE: Final = 1_000
Answered = tuple[bytes | None, pa.RecordBatch]
"""Predictions of one key."""


class RestPredictions:
    """Producer of one pipeline's REST predictions. Thread-safe; never blocks, never raises.

    Parameters
    ----------
    queue_rows
        Predictions waiting to be encoded or produced; beyond it they are dropped.
    dropped
        Counts what was answered and not produced.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        registry: RegistryClient,
        topic: str,
        *,
        queue_rows: int,
        dropped: Counter,
    ) -> None:
        self._registry = registry
        self._topic = topic
        self._dropped = dropped
        self._encoder: ColumnarEncoder | None = None
        self._stop = threading.Event()
        self._queue_rows = queue_rows
        self._answered: queue.SimpleQueue[Answered] = queue.SimpleQueue()
        self._rows = 0
        self._lock = threading.Lock()
        self._producer = Producer(
            {
                **kafka.as_librdkafka(),
                # At most once: a caller's answer never waits for it, and none is produced twice.
                "acks": 1,
                "retries": 0,
                "linger.ms": 20,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(DELIVERY_TIMEOUT_S * 1000),
                "queue.buffering.max.messages": queue_rows,
            }
        )
        self._thread = threading.Thread(target=self._run, name="rest-predictions", daemon=True)
        self._thread.start()

    def publish(self, key: bytes | None, predictions: pa.RecordBatch) -> None:
        """Queue predictions of one key."""
        rows = predictions.num_rows
        with self._lock:
            is_full = self._rows + len(self._producer) + rows > self._queue_rows
            if self._encoder is None or self._stop.is_set() or is_full:
                self._dropped.inc(rows)
                return
            self._rows += rows
        self._answered.put((key, predictions))

    def close(self) -> None:
        """Deliver what is queued, within the delivery time-out."""
        with self._lock:
            self._stop.set()  # nothing is queued after it
        self._thread.join(DELIVERY_TIMEOUT_S)
        left = self._producer.flush(DELIVERY_TIMEOUT_S) + self._rows
        if left:
            self._dropped.inc(left)

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._dropped.inc()

    def _run(self) -> None:
        text = schema_text("prediction.avsc")
        while self._encoder is None and not self._stop.wait(POLL_S if self._tried else 0.0):
            self._tried = True
            try:
                schema_id = self._registry.register(f"{self._topic}-value", text)
                self._encoder = ColumnarEncoder(text, schema_id)
            except PenstockError as exc:
                logger.warning("REST predictions are dropped: %s", exc)
        while not self._stop.is_set() or not self._answered.empty():
            if answered := self._taken():
                self._produce(answered)
            self._producer.poll(0.0)

    def _taken(self) -> list[Answered]:
        """Wait a moment for something answered, and take all that there is."""
        taken: list[Answered] = []
        rows = 0
        try:
            while rows < ROWS_AT_ONCE:
                taken.append(self._answered.get(not taken, POLL_S))
                rows += taken[-1][1].num_rows
        except queue.Empty:
            pass
        return taken

    def _produce(self, answered: list[Answered]) -> None:
        keys = [key for key, predictions in answered for _ in range(predictions.num_rows)]
        try:
            (merged,) = (
                pa.Table.from_batches([p for _, p in answered]).combine_chunks().to_batches()
            )
            assert self._encoder is not None  # noqa: S101 - narrows the type
            values = self._encoder.encode(merged)
        except Exception:
            # A defect; without this thread every later prediction would be lost too.
            logger.exception("REST predictions that cannot be written")
            values = []
        lost = len(keys) - len(values)
        for key, value in zip(keys, values, strict=False):
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_delivery)
            except (BufferError, KafkaException):
                lost += 1
        with self._lock:
            self._rows -= len(keys)
        if lost:
            self._dropped.inc(lost)

    _tried = False
