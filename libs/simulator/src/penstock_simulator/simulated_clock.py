"""Where the simulated time of a run starts: it ends about now, and never runs backwards.

Events of one topic share the accounts' histories, so a second run goes on where the first ended.
"""

from __future__ import annotations

import json
import time
from io import BytesIO
from typing import Any, Final

import fastavro
from confluent_kafka import Consumer, KafkaException, TopicPartition
from penstock_schemas.errors import BrokerUnavailable

from penstock_simulator.foreign_producer import REQUEST_TIMEOUT_S, Connection

_TAIL: Final = 50
"""Records read back per partition: the last ones may be spoilt."""


def last_event_ms(
    connection: Connection, topic: str, schema_text: str, schema_id: int, time_field: str
) -> int | None:
    """Return the latest event time at the end of a topic, or None where there is none.

    Only records written with this very schema are looked at.

    Raises
    ------
    BrokerUnavailable
        If no broker answers.
    """
    consumer = Consumer(
        {
            **connection.kafka,
            "bootstrap.servers": connection.bootstrap_servers,
            "group.id": "penstock-simulator",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "log_level": 3,
        }
    )
    try:
        values = _tail(consumer, topic)
    except KafkaException as exc:
        raise BrokerUnavailable(f"Kafka {connection.bootstrap_servers}: {exc.args[0]}") from exc
    finally:
        consumer.close()
    schema = fastavro.parse_schema(json.loads(schema_text))
    prefix = b"\x00" + schema_id.to_bytes(4, "big")
    times = [_time(v, schema, time_field) for v in values if v[:5] == prefix]
    return max((t for t in times if t is not None), default=None)


def _tail(consumer: Consumer, topic: str) -> list[bytes]:
    partitions = consumer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic].partitions
    positions = []
    for partition in partitions:
        place = TopicPartition(topic, partition)
        low, high = consumer.get_watermark_offsets(place, timeout=REQUEST_TIMEOUT_S)
        if high > low:
            positions.append(TopicPartition(topic, partition, max(low, high - _TAIL)))
    consumer.assign(positions)
    values: list[bytes] = []
    open_ends = len(positions)
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while open_ends and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is not None:
            open_ends -= 1
        elif (value := message.value()) is not None:
            values.append(value)
    return values


def _time(value: bytes, schema: Any, time_field: str) -> int | None:
    """Return the event time of one record, or None if the record is spoilt."""
    try:
        row = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError):
        return None
    return int(row[time_field].timestamp() * 1000)
