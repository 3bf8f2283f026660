"""The retrain topic of one pipeline: read to its end, decided about, written under a fence.

The topic is the only memory of this service. Opening it takes the transactional id, which fences
whoever decided before us, and only then is the topic read: a process that was asleep can no longer
write a decision that we do not know of. A decision follows from the topic read to its end, is
committed to the topic, and only then is folded: a process that was killed at any point leaves
nothing that is known here only.

Kafka is reached by confluent-kafka, whose calls block: they are made on a thread of their own, so
that Faust's event loop goes on.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from penstock_pipelines.model import Retrain
from penstock_registry.schema_registry import RegistryClient
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.errors import BrokerUnavailable, RecordError, RuleViolation
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import ACCEPTED, Ledger, Request
from penstock_schemas.schema_files import schema_text
from penstock_streaming.errors import AbortRequired, OutcomeUnknown
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline

from penstock_retrain_trigger.metrics import TriggerMetrics
from penstock_retrain_trigger.policy import decide

LOG = logging.getLogger(__name__)
ACTOR: Final = "retrain-trigger"
PARTITION: Final = 0
_CLOSE_S: Final = 1.0
T = TypeVar("T")
OnEvent = Callable[[int, RetrainEvent], None]
OnUnreadable = Callable[[int, RecordError], None]


def wall_clock_ms() -> int:
    """Return milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Decisions:
    """Ledger and writer of one pipeline; to be used on one event loop.

    Parameters
    ----------
    now_ms
        The clock; a test gives its own.
    """

    def __init__(
        self,
        log: RetrainLog,
        policy: Retrain,
        metrics: TriggerMetrics,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.ledger = Ledger()
        self.now_ms = now_ms
        self._log = log
        self._policy = policy
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._unreadable: set[int] = set()
        metrics.observe_ledger(self.ledger)

    @property
    def topic(self) -> str:
        """The retrain topic."""
        return self._log.topic

    @property
    def pipeline(self) -> str:
        """The pipeline."""
        return self._log.pipeline

    async def open(self) -> None:
        """Fence earlier writers and fold the whole topic, once; again after a failed write.

        Raises
        ------
        RetryableError
            To be tried again.
        FatalError
            If another process decides, or broker or registry refuse for good.
        """
        async with self._lock:
            await self._open()

    async def _open(self) -> None:
        if not self._log.is_open:
            await self._log.open()
            await self._log.read(self._fold, self._skip)

    async def refresh(self) -> None:
        """Fold what has been committed until now; errors as `open`."""
        async with self._lock:
            await self._log.read(self._fold, self._skip)

    async def fold_record(self, offset: int, value: bytes | None) -> None:
        """Fold a record that the consumer has brought; an unreadable one is skipped.

        Raises
        ------
        RegistryUnavailable
            If its schema cannot be told yet.
        """
        try:
            event = await self._log.decode(value)
        except RecordError as exc:
            self._skip(offset, exc)
        else:
            self._fold(offset, event)

    async def decide(self) -> None:
        """Write a decision about every request that has none; errors as `open`."""
        while self.ledger.undecided():
            await self.write(self._next_decision)

    async def write(self, make: Callable[[], RetrainEvent | None]) -> None:
        """Write the event that follows from the ledger; errors as `open`.

        Parameters
        ----------
        make
            Called with the topic folded; returns None if there is nothing to write any more.
        """
        async with self._lock:
            await self._open()
            event = make()
            if event is None or self.ledger.holds(event):
                return
            self._fold(await self._log.write(event), event)
            LOG.info(
                "request %s is %s%s",
                event.request_id,
                event.state,
                f": {event.reason}" if event.reason else "",
            )

    async def close(self) -> None:
        """Give the producer back."""
        await self._log.close()

    def _next_decision(self) -> RetrainEvent | None:
        undecided = self.ledger.undecided()
        if not undecided or undecided[0].requested is None:
            return None
        request = undecided[0].requested.event
        now_ms = self.now_ms()
        decision = decide(request, self.ledger, self._policy, now_ms)
        return request.followed_by(
            decision.state,
            now_ms,
            actor=ACTOR,
            cause_ids=request.cause_ids,
            reason=decision.reason,
            job_id=request.request_id if decision.state == ACCEPTED else "",
        )

    def follow(self, request: Request, state: str, **facts: str) -> RetrainEvent | None:
        """Return the next event of a request that is in flight; None if it no longer is."""
        decision = request.decision
        if decision is None or not request.is_in_flight:
            return None
        return decision.event.followed_by(state, self.now_ms(), actor=ACTOR, **facts)

    def _fold(self, offset: int, event: RetrainEvent) -> None:
        if self.ledger.fold(event, offset):
            self._metrics.count_event(event)

    def _skip(self, offset: int, error: RecordError) -> None:
        if offset in self._unreadable:  # it comes by the start's fold and by the consumer
            return
        self._unreadable.add(offset)
        self._metrics.unreadable.inc()
        LOG.error("offset %s of %s is passed over: %s", offset, self._log.topic, error)


class RetrainLog:
    """The retrain topic of one pipeline; to be used on one event loop, one call at a time.

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
        self._registry = registry
        self.topic = topic
        self.pipeline = pipeline
        self._timeout_s = timeout_s
        self._schema = schema_text("retrain_event.avsc")
        self._schema_id = 0
        self._next = 0
        self._view = LogView(kafka)
        writer_id = f"penstock-retrain-trigger-{pipeline}"
        self._writer = FencedWriter(kafka, writer_id, LoopSettings(commit_timeout_s=timeout_s))

    async def open(self) -> None:
        """Fence earlier writers; the topic must be read to its end before anything is decided.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            To be tried again.
        FencedError
            If another process does the same right now.
        """
        await _on_thread(self._open)

    def _open(self) -> None:
        self._schema_id = self._registry.register(f"{self.topic}-value", self._schema)
        self._writer.open(self._timeout_s)

    @property
    def is_open(self) -> bool:
        """Whether events can be written."""
        return self._writer.is_open

    async def write(self, event: RetrainEvent) -> int:
        """Write an event and return its offset once it is committed.

        After any error the log is closed. If it was no fence the outcome is unknown: the log is to
        be opened and read to its end before the event is tried again.

        Raises
        ------
        BrokerUnavailable
            If the outcome is unknown.
        FencedError
            If another process has opened the log.
        """
        return await _on_thread(lambda: self._write(event))

    def _write(self, event: RetrainEvent) -> int:
        value = encode_one(self._schema, self._schema_id, event.to_dict())
        record = LogRecord(self.topic, self.pipeline.encode(), value, PARTITION)
        try:
            return self._writer.write_transaction([record])[self.topic, PARTITION]
        except (AbortRequired, OutcomeUnknown) as exc:
            raise BrokerUnavailable(f"writing {self.topic}: {exc}") from exc

    async def read(self, on_event: OnEvent, on_unreadable: OnUnreadable) -> None:
        """Read what was committed since the last time, up to what is the end now.

        Parameters
        ----------
        on_event, on_unreadable
            Called with each record and its offset, on the event loop.

        Raises
        ------
        BrokerUnavailable
            If the end is not reached in time: no broker, no topic, or a transaction still open.
        RegistryUnavailable
            If the registry does not answer.
        """
        found: list[tuple[int, RetrainEvent | RecordError]] = []
        try:
            await _on_thread(lambda: self._read(found))
        finally:
            for offset, what in found:
                if isinstance(what, RecordError):
                    on_unreadable(offset, what)
                else:
                    on_event(offset, what)

    def _read(self, found: list[tuple[int, RetrainEvent | RecordError]]) -> None:
        """Append what is new; what was read before an error counts as read."""
        deadline = Deadline(self._timeout_s)
        here = (self.topic, PARTITION)
        end = self._view.end_offsets([here], deadline)[here]
        try:
            for messages in self._view.read({here: Span(self._next, end)}, deadline):
                for message in messages:
                    offset = message.offset() or 0
                    try:
                        found.append((offset, self._decode(message.value())))
                    except RecordError as exc:
                        found.append((offset, exc))
                    self._next = offset + 1
        except BrokerUnavailable as exc:
            raise BrokerUnavailable(
                f"{self.topic}: at {self._next}, not at its end {end}: {exc}"
            ) from exc
        # Behind the last record lie the markers of its transaction.
        self._next = max(self._next, end)

    async def decode(self, value: bytes | None) -> RetrainEvent:
        """Return the event of a record's value.

        Raises
        ------
        RecordError
            If it is not one of this pipeline.
        RegistryUnavailable
            If its schema is not known yet and the registry does not answer.
        """
        return await _on_thread(lambda: self._decode(value))

    def _decode(self, value: bytes | None) -> RetrainEvent:
        fields = decode_one(value or b"", self._registry.schema_text, self._schema)
        event = RetrainEvent.from_dict(fields)
        if event.pipeline != self.pipeline:
            raise RuleViolation(
                "an event of another pipeline",
                field="pipeline",
                expected=self.pipeline,
                got=event.pipeline[:100],
            )
        return event

    async def close(self) -> None:
        """Give the transactional id back; what goes wrong then changes nothing any more."""
        with suppress(TimeoutError):
            await asyncio.wait_for(_on_thread(self._writer.close), _CLOSE_S)


async def _on_thread(call: Callable[[], T]) -> T:
    """Make a call that blocks; a cancelled one is left behind and does not delay the exit.

    The default executor's threads are joined at the end of the event loop, so that a call which
    waits for a broker that is away would keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # the call has returned it

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="retrain-log", daemon=True).start()
    return await done
