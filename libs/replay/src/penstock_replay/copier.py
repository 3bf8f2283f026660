"""Copies and the note of them in one transaction: both become visible, or neither does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, Producer
from penstock_schemas.errors import BrokerUnavailable, DeliveryFailed, FencedError
from penstock_schemas.records import AuditEvent
from penstock_service.fail_points import FailPoints
from penstock_streaming.dead_letters import Header
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    OutcomeUnknown,
    TransactionClass,
    Verdict,
    error_of,
    transaction_class,
    translated,
    verdict,
)
from penstock_streaming.settings import KafkaSettings, LoopSettings
from penstock_streaming.timing import Deadline, within

from penstock_replay.audit_log import AuditLog
from penstock_replay.headers import Record

OPEN_S: Final = 60.0
"""Time to take the transactional id: what a killed run left open is ended first."""
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Where a copy goes, and the headers it gets."""

    topic: str
    partition: int
    headers: list[Header]


class Copier:
    """Appends copies of records, exactly once for each transactional id.

    Parameters
    ----------
    transactional_id
        Whoever opens it next ends what this one has open, and this one can write no more.
    audit
        Takes the notes.
    loop
        Time-outs of the transaction.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        transactional_id: str,
        audit: AuditLog,
        loop: LoopSettings | None = None,
    ) -> None:
        self._loop = loop or LoopSettings()
        self._config: dict[str, Any] = kafka.producer_config(self._loop, transactional_id)
        self._id = transactional_id
        self._audit = audit
        self._points = FailPoints()
        self._client: Producer | None = None
        self._begun_at: float | None = None
        self._refused: KafkaError | None = None
        self.rows = 0

    @property
    def age_s(self) -> float:
        """Seconds since the open transaction began; 0.0 without one."""
        return 0.0 if self._begun_at is None else time.monotonic() - self._begun_at

    def open(self) -> None:
        """Take the transactional id with a new producer.

        When it returns, whatever an earlier producer left open is aborted or committed for good.

        Raises
        ------
        BrokerUnavailable
            If that takes too long.
        """
        self.close()
        self._client = Producer(self._config)
        deadline = Deadline(OPEN_S)
        while True:
            try:
                within(self._client.init_transactions, min(5.0, max(0.1, deadline.remaining_s)))
                return
            except OutcomeUnknown as exc:
                raise BrokerUnavailable(f"taking {self._id}: {exc}") from exc
            except CLIENT_EXCEPTIONS as exc:
                error = error_of(exc)
                if transaction_class(error) is TransactionClass.RETRIABLE and not deadline.expired:
                    continue
                if verdict(error) in (Verdict.CONFIG, Verdict.FENCED):
                    raise translated(error, f"taking {self._id}") from exc
                raise BrokerUnavailable(f"taking {self._id}: {error.str()}") from exc

    def send(self, record: Record, target: Target) -> None:
        """Queue a copy: key, value and timestamp as they are."""
        self._produce(
            target.topic,
            record.value(),
            record.key(),
            target.partition,
            timestamp=max(0, record.timestamp()[1]),
            headers=target.headers,
        )
        self.rows += 1
        self._points.reach("mid_copy")

    def commit(self, *notes: AuditEvent) -> None:
        """Make the copies since the last commit, and these notes, visible at once.

        Raises
        ------
        AbortRequired, OutcomeUnknown
            If that failed, or nobody knows: open again, and read from the audit what is done.
        FencedError
            If somebody else has taken the transactional id.
        DeliveryFailed
            If the broker will never take one of the copies.
        """
        for note in notes:
            self._produce(
                self._audit.topic, self._audit.encode(note), note.actor.encode(), 0, headers=[]
            )
        client = self._producer
        self._points.reach("before_commit")
        self._points.during("during_commit")
        self._call(client.commit_transaction)
        self._begun_at = None
        self.rows = 0
        self._points.reach("after_commit")

    def close(self) -> None:
        """Drop the producer; the broker aborts what is open, at the latest at its time-out."""
        client, self._client = self._client, None
        was_open, self._begun_at, self.rows = self._begun_at is not None, None, 0
        if client is None:
            return
        try:
            if was_open:
                within(client.abort_transaction, self._loop.commit_timeout_s)
        except (OutcomeUnknown, *CLIENT_EXCEPTIONS):
            client.purge()

    @property
    def _producer(self) -> Producer:
        if self._client is None:
            raise OutcomeUnknown("the producer is not open")
        return self._client

    def _produce(self, *record: Any, timestamp: int = 0, headers: list[Header]) -> None:
        client: Any = self._producer  # its stub asks for concrete header lists
        if self._begun_at is None:
            self._refused = None
            self._call(lambda _: client.begin_transaction())
            self._begun_at = time.monotonic()
        deadline = Deadline(self._loop.commit_timeout_s)
        while True:
            try:
                client.produce(
                    *record, timestamp=timestamp, headers=headers, on_delivery=self._delivered
                )
                client.poll(0)
                return
            except BufferError:
                if deadline.expired:
                    raise AbortRequired("the producer's queue stays full") from None
                client.poll(_POLL_S)
            except CLIENT_EXCEPTIONS as exc:
                raise self._failure(exc) from exc

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None and verdict(error) is Verdict.UNDELIVERABLE:
            self._refused = self._refused or error

    def _call(self, call: Callable[[float], object]) -> None:
        deadline = Deadline(self._loop.commit_timeout_s)
        while True:
            try:
                return within(call, max(0.1, deadline.remaining_s))
            except CLIENT_EXCEPTIONS as exc:
                is_retriable = transaction_class(error_of(exc)) is TransactionClass.RETRIABLE
                if not is_retriable or deadline.expired:
                    raise self._failure(exc) from exc

    def _failure(self, exc: BaseException) -> Exception:
        """Return what an error of a transaction means."""
        error = error_of(exc)
        text = f"{error.name()}: {error.str()}"
        if self._refused is not None:
            return DeliveryFailed(f"the broker refuses a copy: {self._refused.str()}")
        if verdict(error) in (Verdict.CONFIG, Verdict.UNDELIVERABLE):
            return translated(error, "copying")
        if verdict(error) is Verdict.FENCED:
            # Also where the client would let us abort: taking the id back would fence the other.
            return FencedError(f"another run has taken over ({self._id}); it goes on there")
        if transaction_class(error) is TransactionClass.ABORTABLE:
            return AbortRequired(text, verdict(error))
        return OutcomeUnknown(text)
