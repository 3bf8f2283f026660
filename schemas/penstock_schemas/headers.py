"""Names of the Kafka headers Penstock writes. All values are UTF-8 strings.

The ``__streams.errors.*`` names are those of Kafka Streams (KIP-1034), so that tools that know
them show our dead letters too.
"""

from __future__ import annotations

from typing import Final

ERROR_EXCEPTION: Final = "__streams.errors.exception"
ERROR_MESSAGE: Final = "__streams.errors.message"
ERROR_TOPIC: Final = "__streams.errors.topic"
ERROR_PARTITION: Final = "__streams.errors.partition"
ERROR_OFFSET: Final = "__streams.errors.offset"

DLQ_SERVICE: Final = "dlq.service"
DLQ_STAGE: Final = "dlq.stage"
DLQ_CLASS: Final = "dlq.class"
DLQ_ATTEMPT: Final = "dlq.attempt"
DLQ_FIRST_FAILED_AT: Final = "dlq.first_failed_at"
DLQ_SCHEMA_ID: Final = "dlq.schema_id"
DLQ_MODEL: Final = "dlq.model"
DLQ_ORIGIN: Final = "dlq.origin"
"""``topic/partition/offset`` of the record in the events topic."""

REPLAY_OF: Final = "penstock.replay.of"

DEAD_LETTER_HEADERS: Final = frozenset(
    {
        ERROR_EXCEPTION,
        ERROR_MESSAGE,
        ERROR_TOPIC,
        ERROR_PARTITION,
        ERROR_OFFSET,
        DLQ_SERVICE,
        DLQ_STAGE,
        DLQ_CLASS,
        DLQ_ATTEMPT,
        DLQ_FIRST_FAILED_AT,
        DLQ_SCHEMA_ID,
        DLQ_MODEL,
        DLQ_ORIGIN,
    }
)
"""Replaced, not appended, on each pass through a dead-letter topic."""
