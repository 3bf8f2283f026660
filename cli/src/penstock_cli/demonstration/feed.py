"""Reads what the demo shows from the topics, as any foreign consumer may."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message, TopicPartition
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import ColumnarDecoder, decode_one
from penstock_schemas.errors import RecordError
from penstock_schemas.records import DriftEvent, RetrainEvent, RoutingState
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.errors import ErrorCategory, category_of, penstock_error
from penstock_streaming.settings import KafkaSettings

from penstock_cli import console
from penstock_cli.demonstration.joined_rows import Labels, Predictions

T = TypeVar("T")
BATCH_ROWS: Final = 5_000
METADATA_TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class PolledRecords:
    """The records of one poll, decoded."""

    predictions: Predictions | None = None
    labels: Labels | None = None
    dead_letters: int = 0
    drift: list[DriftEvent] = field(default_factory=list)
    retrain: list[RetrainEvent] = field(default_factory=list)
    routing: list[RoutingState] = field(default_factory=list)


class Feed:
    """A read_committed consumer of a pipeline's topics, from their beginning. Not thread-safe.

    Raises
    ------
    PenstockError
        If the broker refuses for good.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: RegistryClient, topics: PipelineTopics
    ) -> None:
        self._topics = topics
        self._resolve = registry.schema_text
        self._dead = {topics.dead_letter(topics.events), topics.dead_letter(topics.features)}
        self._predictions = ColumnarDecoder(schema_text("prediction.avsc"), self._resolve)
        self._labels = ColumnarDecoder(schema_text("interaction.avsc"), self._resolve)
        self._consumer = Consumer(
            {
                **kafka.as_librdkafka(),
                "group.id": "penstock-demo",  # required by the client; nothing is committed
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 10,
            }
        )
        names = (topics.predictions, topics.interactions, topics.drift, topics.retrain)
        self._consumer.assign(
            [
                partition
                for name in (*names, topics.models, *self._dead)
                for partition in self._partitions(name)
            ]
        )

    def poll(self, timeout_s: float) -> PolledRecords:
        """Return the records that are there, waiting at most ``timeout_s`` for the first record."""
        by_topic: dict[str, list[Message]] = {}
        for message in self._consumer.consume(BATCH_ROWS, timeout_s):
            error = message.error()
            if error is None:
                by_topic.setdefault(str(message.topic()), []).append(message)
            elif category_of(error) is not ErrorCategory.RETRY:
                raise penstock_error(error, "reading what the demo shows")
        topics = self._topics
        predictions = by_topic.get(topics.predictions, [])
        labels = by_topic.get(topics.interactions, [])
        return PolledRecords(
            self._read_predictions(predictions) if predictions else None,
            self._read_labels(labels) if labels else None,
            sum(len(by_topic.get(name, ())) for name in self._dead),
            self._records(by_topic.get(topics.drift), "drift_event.avsc", DriftEvent.from_dict),
            self._records(
                by_topic.get(topics.retrain), "retrain_event.avsc", RetrainEvent.from_dict
            ),
            self._records(
                by_topic.get(topics.models), "routing_state.avsc", RoutingState.from_dict
            ),
        )

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _partitions(self, topic: str) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic, timeout=METADATA_TIMEOUT_S).topics[topic]
        return [TopicPartition(topic, number, 0) for number in found.partitions]

    def _read_predictions(self, messages: list[Message]) -> Predictions:
        decoded = self._predictions.decode([message.value() for message in messages])
        _warn(messages, decoded.errors)
        read = [messages[row] for row in decoded.rows.tolist()]
        columns = decoded.columns
        return Predictions(
            event_ids=columns.column("event_id").to_pylist(),
            scores=_first_scores(columns.column("scores")),
            versions=columns.column("model_version").to_pylist(),
            is_canary=_array(pc.equal(columns.column("variant"), "canary")).astype(np.bool_),
            partitions=np.array([message.partition() for message in read], np.int64),
            offsets=np.array([message.offset() for message in read], np.int64),
            keys=[message.key() for message in read],
            features=_matrix(columns.column("features")),
        )

    def _read_labels(self, messages: list[Message]) -> Labels:
        decoded = self._labels.decode([message.value() for message in messages])
        _warn(messages, decoded.errors)
        columns = decoded.columns.filter(decoded.columns.column("label").is_valid())
        times = columns.column("occurred_at").cast(pa.int64())
        return Labels(
            columns.column("event_id").to_pylist(),
            _array(columns.column("label")).astype(np.float64),
            _array(times).astype(np.int64),
        )

    def _records(
        self,
        messages: Iterable[Message] | None,
        schema_file: str,
        make: Callable[[dict[str, Any]], T],
    ) -> list[T]:
        schema = schema_text(schema_file)
        found = []
        for message in messages or ():
            value = message.value()
            if value is None:
                continue
            try:
                found.append(make(decode_one(value, self._resolve, schema)))
            except RecordError as exc:
                _note_unreadable(message, exc)
        return found


def _array(column: pa.Array) -> Any:
    return column.to_numpy(zero_copy_only=False)


def _first_scores(column: pa.Array) -> Any:
    """Return the first score of each row, NaN where there is none."""
    scores = np.full(len(column), np.nan)
    lengths = _array(column.value_lengths())
    starts = np.cumsum(lengths) - lengths
    has_any = lengths > 0
    scores[has_any] = _array(column.flatten())[starts[has_any]]
    return scores


def _matrix(column: pa.Array) -> Any:
    values = _array(column.flatten()).astype(np.float32)
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)


def _warn(messages: list[Message], errors: list[tuple[int, RecordError]]) -> None:
    for row, error in errors[:1]:
        _note_unreadable(messages[row], error)


def _note_unreadable(message: Message, error: RecordError) -> None:
    console.note(f"penstock: {message.topic()} offset {message.offset()} is unreadable: {error}")
