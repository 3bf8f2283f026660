"""A producer application as anyone would write it: confluent-kafka, Avro, the registry.

Confluent framing around Avro, or plain JSON. On purpose none of this is Penstock's own codec: what
the simulator sends proves that any application may send it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import fastavro
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from httpx2 import HTTPError
from penstock_schemas.errors import (
    BrokerUnavailable,
    ConfigError,
    DeliveryFailed,
    RegistryUnavailable,
    SchemaIncompatible,
)

REQUEST_TIMEOUT_S = 10.0
FLUSH_TIMEOUT_S = 60.0
_MESSAGE_MAX_BYTES = 4 * 1024 * 1024
_QUEUE_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the foreign producer writes to.

    Parameters
    ----------
    bootstrap_servers
        Kafka, comma-separated host:port.
    registry_url
        Root of a Confluent-compatible registry API.
    kafka
        Further librdkafka settings, such as credentials.
    """

    bootstrap_servers: str
    registry_url: str
    kafka: Mapping[str, object] = field(default_factory=dict)


def register(connection: Connection, subject: str, schema_text: str) -> int:
    """Register a schema (again) and return its id.

    Raises
    ------
    RegistryUnavailable
        If the registry does not answer, or is still starting.
    SchemaIncompatible
        If it refuses the schema.
    """
    client = SchemaRegistryClient(
        {"url": connection.registry_url, "timeout": REQUEST_TIMEOUT_S, "max.retries": 2}
    )
    try:
        return client.register_schema(subject, Schema(schema_text, "AVRO"))
    except SchemaRegistryError as exc:
        if exc.http_status_code in (409, 422):
            raise SchemaIncompatible(f"registry refuses {subject}: {exc}") from exc
        raise RegistryUnavailable(f"registry {connection.registry_url}: {exc}") from exc
    except (HTTPError, OSError) as exc:
        raise RegistryUnavailable(f"registry {connection.registry_url}: {exc}") from exc
    finally:
        client.close()


class ForeignProducer:
    """An idempotent producer that notices every failed delivery.

    Keys are spread as Java's producer does it (murmur2), values compressed with lz4.
    """

    def __init__(self, connection: Connection) -> None:
        self._failed: str | None = None
        self._servers = connection.bootstrap_servers
        self._producer = Producer(
            {
                **connection.kafka,
                "bootstrap.servers": connection.bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 20,
                "message.max.bytes": _MESSAGE_MAX_BYTES,
                "queue.buffering.max.messages": _QUEUE_ROWS,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
                "log_level": 3,
            }
        )

    def check_topics(self, topics: list[str]) -> None:
        """Make sure that the topics are there before the first record.

        Raises
        ------
        BrokerUnavailable
            If no broker answers.
        ConfigError
            If a topic is missing.
        """
        with _translated(f"Kafka {self._servers}"):
            known = self._producer.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        missing = [t for t in topics if t not in known]
        if missing:
            raise ConfigError(
                f"topic {missing[0]} does not exist: run `penstock topics apply`, or `penstock up`"
            )

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Queue a record; waits while the queue is full."""
        while True:
            try:
                self._producer.produce(topic, value, key)
            except BufferError:
                if (
                    self._producer.poll(REQUEST_TIMEOUT_S) == 0
                    and len(self._producer) >= _QUEUE_ROWS
                ):
                    raise BrokerUnavailable(f"Kafka {self._servers}: queue full for 10 s") from None
            except KafkaException as exc:
                raise DeliveryFailed(f"{topic}: {exc}") from exc
            else:
                return

    def poll(self) -> None:
        """Serve delivery reports.

        Raises
        ------
        DeliveryFailed
            If a record could not be delivered.
        """
        self._producer.poll(0)
        if self._failed is not None:
            raise DeliveryFailed(self._failed)

    def flush(self) -> None:
        """Wait until everything is delivered.

        Raises
        ------
        DeliveryFailed
            If a record could not be, within the deadline.
        """
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        self.poll()
        if left:
            raise DeliveryFailed(f"{left} records not delivered within {FLUSH_TIMEOUT_S:.0f} s")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failed is None:
            self._failed = f"{message.topic()}: {error.name()}: {error.str()}"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        raise BrokerUnavailable(f"{what}: {exc.args[0]}") from exc


Row = Mapping[str, Any]


def avro_writer(schema_text: str, schema_id: int) -> Callable[[Row], bytes]:
    """Return a function that writes one record with the prefix 0x00 and the 4-byte schema id."""
    schema = fastavro.parse_schema(json.loads(schema_text))
    prefix = struct.pack(">bI", 0, schema_id)
    buffer = BytesIO()

    def write(row: Row) -> bytes:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(prefix)
        fastavro.schemaless_writer(buffer, schema, row)
        return buffer.getvalue()

    return write


def json_bytes(row: Row) -> bytes:
    """Write one record as a JSON object; times as integer milliseconds."""
    return json.dumps(row, separators=(",", ":")).encode()


def rows_of(columns: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return columns as plain rows; timestamps as integer milliseconds, as Avro wants them."""
    lists = []
    for column in columns.columns:
        plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        lists.append(plain.to_pylist())
    names = columns.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*lists, strict=True)]
