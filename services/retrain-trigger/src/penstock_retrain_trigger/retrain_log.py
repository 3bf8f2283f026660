"""The retrain topic of one pipeline: read to its end, written under a fence.

The topic is the only memory of this service. Opening it starts a transactional producer, which
fences whoever decided before us, and only then is the topic read: a process that was asleep can no
longer write a decision that we do not know of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from penstock_registry.client import RegistryClient
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import BrokerUnavailable, FencedError, RecordError, RuleViolation
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_retrain_trigger.kafka_clients import aiokafka_arguments

LOG = logging.getLogger(__name__)
PARTITION: Final = 0
_TRANSACTION_TIMEOUT_MS: Final = 10_000
_CLOSE_S: Final = 1.0
_POLL_MS: Final = 200
T = TypeVar("T")
OnEvent = Callable[[int, RetrainEvent], None]
OnUnreadable = Callable[[int, RecordError], None]


class RetrainLog:
    """The retrain topic of one pipeline; to be used on one event loop.

    Parameters
    ----------
    topic
        One partition, key = pipeline.
    timeout_s
        Longest wait for one step.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        registry: RegistryClient,
        topic: str,
        pipeline: str,
        timeout_s: float,
    ) -> None:
        self._arguments = aiokafka_arguments(kafka)
        self._registry = registry
        self.topic = topic
        self._pipeline = pipeline
        self._timeout_s = timeout_s
        self._schema = schema_text("retrain_event.avsc")
        self._schema_id: int | None = None
        self._producer: AIOKafkaProducer | None = None
        self._next = 0

    async def open(self) -> None:
        """Fence earlier writers; the topic must be read to its end before anything is decided.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            To be tried again.
        FencedError
            If another process does the same right now.
        """
        if self._schema_id is None:
            subject = f"{self.topic}-value"
            register = self._registry.register
            self._schema_id = await asyncio.to_thread(register, subject, self._schema)
        await self._close_producer()
        producer = AIOKafkaProducer(
            **self._arguments,
            transactional_id=f"penstock-retrain-trigger-{self._pipeline}",
            transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS,
            acks="all",
        )
        self._producer = producer
        try:
            await self._in_time(producer.start(), "opening")
        except BaseException:
            await self._close_producer()
            raise

    @property
    def is_open(self) -> bool:
        """Tell whether events can be written."""
        return self._producer is not None

    async def write(self, event: RetrainEvent) -> int:
        """Write an event and return its offset once it is committed.

        After any error but a fence the outcome is unknown: the log is closed, to be opened and read
        to its end before the event is tried again.

        Raises
        ------
        BrokerUnavailable
            If the outcome is unknown.
        FencedError
            If another process has opened the log.
        """
        producer = self._producer
        if producer is None or self._schema_id is None:
            raise BrokerUnavailable(f"{self.topic} is not open")
        value = encode_one(self._schema, self._schema_id, event.to_dict())
        try:
            return await self._in_time(self._commit(producer, value), "writing")
        except BaseException:
            await self._close_producer()
            raise

    async def _commit(self, producer: AIOKafkaProducer, value: bytes) -> int:
        await producer.begin_transaction()
        key = self._pipeline.encode()
        sent = await producer.send_and_wait(self.topic, value, key, PARTITION)
        await producer.commit_transaction()
        return int(sent.offset)

    async def read(self, on_event: OnEvent, on_unreadable: OnUnreadable) -> None:
        """Read what was committed since the last time, up to what is the end now.

        Parameters
        ----------
        on_event, on_unreadable
            Told of each record with its offset.

        Raises
        ------
        BrokerUnavailable
            If the end is not reached in time: no broker, no topic, or a transaction still open.
        RegistryUnavailable
            If the registry does not answer.
        """
        partition = TopicPartition(self.topic, PARTITION)
        deadline = Deadline(self._timeout_s)
        end = await self._end(partition)
        if self._next >= end:
            return
        consumer = self._consumer(isolation_level="read_committed")
        try:
            await self._in_time(consumer.start(), "reading")
            consumer.assign([partition])
            consumer.seek(partition, self._next)
            while self._next < end:
                if deadline.expired:
                    raise BrokerUnavailable(
                        f"{self.topic}: at {self._next}, not at its end {end}, "
                        f"after {self._timeout_s:.0f} s"
                    )
                found = await self._in_time(consumer.getmany(timeout_ms=_POLL_MS), "reading")
                for record in found.get(partition, ()):
                    await self._tell(record, on_event, on_unreadable)
                    self._next = record.offset + 1
                # Behind the last record lie the markers of its transaction.
                position = await self._in_time(consumer.position(partition), "reading")
                self._next = max(self._next, position)
        finally:
            await _closed(consumer.stop())

    async def _tell(self, record: Any, on_event: OnEvent, on_unreadable: OnUnreadable) -> None:
        try:
            on_event(record.offset, await self.decode(record.value))
        except RecordError as exc:
            on_unreadable(record.offset, exc)

    async def decode(self, value: bytes | None) -> RetrainEvent:
        """Return the event of a record's value.

        Raises
        ------
        RecordError
            If it is not one of this pipeline.
        RegistryUnavailable
            If its schema is not known yet and the registry does not answer.
        """
        return await asyncio.to_thread(self._decode, value or b"")

    def _decode(self, value: bytes) -> RetrainEvent:
        fields = decode_one(value, self._registry.schema_text, self._schema)
        event = RetrainEvent.from_dict(fields)
        if event.pipeline != self._pipeline:
            raise RuleViolation(
                "an event of another pipeline",
                field="pipeline",
                expected=self._pipeline,
                got=event.pipeline[:100],
            )
        return event

    async def _end(self, partition: TopicPartition) -> int:
        """Return the offset behind the last record, open transactions included."""
        consumer = self._consumer(isolation_level="read_uncommitted")
        try:
            await self._in_time(consumer.start(), "reading")
            if self.topic not in await self._in_time(consumer.topics(), "reading"):
                raise BrokerUnavailable(f"{self.topic}: no such topic")
            ends = await self._in_time(consumer.end_offsets([partition]), "reading")
            return int(ends[partition])
        finally:
            await _closed(consumer.stop())

    def _consumer(self, isolation_level: str) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._arguments,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation_level,
        )

    async def _in_time(self, call: Awaitable[T], doing: str) -> T:
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except ProducerFenced as exc:
            raise FencedError(f"{self.topic}: another retrain-trigger decides") from exc
        except (TimeoutError, KafkaError, OSError) as exc:
            raise BrokerUnavailable(f"{doing} {self.topic}: {exc!r}") from exc

    async def close(self) -> None:
        """Give the producer back."""
        await self._close_producer()

    async def _close_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _closed(producer.stop())


async def _closed(closing: Awaitable[None]) -> None:
    """Close a client; what goes wrong then changes nothing any more."""
    try:
        await asyncio.wait_for(closing, _CLOSE_S)
    except (TimeoutError, KafkaError, OSError) as exc:
        LOG.debug("closing a client: %r", exc)
