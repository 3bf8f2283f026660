"""Predictions answered over REST, produced to their topic at most once; drops are counted."""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

import pyarrow as pa
from confluent_kafka import KafkaException, Producer
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import PenstockError
from penstock_schemas.schema_files import schema_text
from penstock_streaming.registry import RegistryClient
from penstock_streaming.settings import KafkaSettings
from prometheus_client import Counter

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.5


class RestPredictions:
    """Producer of one pipeline's REST predictions. Thread-safe; never blocks, never raises.

    Parameters
    ----------
    queue_rows
        Predictions waiting to be produced; beyond it they are dropped.
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
        encoder = self._encoder
        if encoder is None or self._stop.is_set():
            self._dropped.inc(predictions.num_rows)
            return
        for value in encoder.encode(predictions):
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_delivery)
            except (BufferError, KafkaException):
                self._dropped.inc()

    def close(self) -> None:
        """Deliver what is queued, within the delivery time-out."""
        self._stop.set()
        self._thread.join(2 * POLL_S)
        left = self._producer.flush(DELIVERY_TIMEOUT_S)
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
        while not self._stop.is_set():
            self._producer.poll(POLL_S)

    _tried = False
