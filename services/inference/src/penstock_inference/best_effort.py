"""A topic of predictions that nobody waits for: produced at most once, drops are counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import KafkaException, Producer
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import ColumnarEncoder
from penstock_schemas.errors import PenstockError
from penstock_schemas.schema_files import schema_text
from penstock_streaming.settings import KafkaSettings

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.5


class BestEffortTopic:
    """Producer of predictions to one topic. Thread-safe; never blocks, never raises.

    Parameters
    ----------
    queue_rows
        Predictions waiting to be produced; beyond it they are dropped.
    dropped
        Is told how many were not produced.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        registry: RegistryClient,
        topic: str,
        *,
        queue_rows: int,
        dropped: Callable[[int], object],
    ) -> None:
        self._registry = registry
        self._topic = topic
        self._dropped = dropped
        self._encoder: ColumnarEncoder | None = None
        self._stop = threading.Event()
        self._producer = Producer(
            {
                **kafka.as_librdkafka(),
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
        partitions: npt.NDArray[np.int32],
    ) -> None:
        """Queue predictions, each with its key for its partition."""
        encoder = self._encoder
        if encoder is None or self._stop.is_set():
            self._dropped(predictions.num_rows)
            return
        values = encoder.encode(predictions)
        for value, key, partition in zip(values, keys, partitions.tolist(), strict=True):
            try:
                self._producer.produce(
                    self._topic, value, key, partition, on_delivery=self._on_delivery
                )
            except (BufferError, KafkaException):
                self._dropped(1)

    def close(self) -> None:
        """Deliver what is queued, within the delivery time-out."""
        self._stop.set()
        self._thread.join(2 * POLL_S)
        left = self._producer.flush(DELIVERY_TIMEOUT_S)
        if left:
            self._dropped(left)

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._dropped(1)

    def _run(self) -> None:
        text = schema_text("prediction.avsc")
        while self._encoder is None and not self._stop.is_set():
            try:
                schema_id = self._registry.register(f"{self._topic}-value", text)
                self._encoder = ColumnarEncoder(text, schema_id)
            except PenstockError as exc:
                logger.warning("%s: predictions are dropped: %s", self._topic, exc)
                self._stop.wait(POLL_S)
        while not self._stop.is_set():
            self._producer.poll(POLL_S)
