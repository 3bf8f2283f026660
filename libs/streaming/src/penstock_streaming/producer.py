"""The output side of the loop: what a producer in a transaction and one that flushes share.

Both kinds have the same surface: begin, produce, commit, abort. Which client error asks for an
abort, and which for a new producer, is decided here and in `errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
from confluent_kafka import TopicPartition
from penstock_schemas.errors import FencedError

from penstock_streaming.clients import ProducerClient
from penstock_streaming.dead_letter import DeadLetter
from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import (
    CLIENT_EXCEPTIONS,
    AbortRequired,
    OutcomeUnknown,
    Verdict,
    error_of,
    translated,
    verdict,
)
from penstock_streaming.fail_points import FailPoints
from penstock_streaming.handler import OutputColumns
from penstock_streaming.settings import LoopSettings

POLL_S = 0.05


class Group(Protocol):
    """The consumer's side of a commit."""

    def member_id(self) -> str:
        """Return our id in the group."""

    def membership(self, member_id: str) -> object:
        """Return the group metadata of that member."""

    def commit(self, ends: list[TopicPartition]) -> None:
        """Commit outside of a transaction."""


class OutputProducer:
    """Queues records and delivery errors: what both kinds share.

    Parameters
    ----------
    connect
        Makes a client from what is to be added to its configuration; called again for every
        re-creation.
    group
        The consumer's side of a commit.
    loop
        Time-outs.
    fail_points
        Places where a test kills the process.
    """

    def __init__(
        self,
        connect: Callable[[dict[str, Any]], ProducerClient],
        group: Group,
        loop: LoopSettings,
        fail_points: FailPoints,
    ) -> None:
        self._connect = connect
        self._group = group
        self._loop = loop
        self._fail_points = fail_points
        self._open_client: ProducerClient | None = None

    @property
    def _client(self) -> ProducerClient:
        if self._open_client is None:
            raise OutcomeUnknown("the producer is not open")
        return self._open_client

    def produce(self, columns: OutputColumns) -> None:
        """Queue records, in order.

        Raises
        ------
        AbortRequired
            If the queue does not empty in time, or the transaction has failed already.
        """
        partitions = columns.partitions
        if isinstance(partitions, np.ndarray):
            partitions = partitions.tolist()
        rows = zip(columns.values, columns.keys, partitions, strict=True)
        if self._fail_points.armed == "mid_produce":
            self._send(columns.topic, islice(rows, len(columns.values) // 2))
            self._serve(self._client.flush, 1.0)
            self._fail_points.reach("mid_produce")
        self._send(columns.topic, rows)
        self._serve(self._client.poll, 0)

    def _send(self, topic: str, rows: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        produce = self._client.produce
        try:
            for value, key, partition in rows:
                try:
                    produce(topic, value, key, partition)
                except BufferError:
                    self._produce_later(partial(produce, topic, value, key, partition))
        except CLIENT_EXCEPTIONS as exc:
            raise self._produce_error(exc, topic) from exc

    def produce_dead_letter(self, topic: str, letter: DeadLetter) -> None:
        """Queue a dead letter."""
        send = partial(
            self._client.produce,
            topic,
            letter.value,
            letter.key,
            letter.partition,
            timestamp=letter.timestamp_ms,
            headers=letter.headers,
        )
        try:
            try:
                send()
            except BufferError:
                self._produce_later(send)
        except CLIENT_EXCEPTIONS as exc:
            raise self._produce_error(exc, topic) from exc

    def settle(self) -> None:
        """Wait until all that is queued lies in the log; raise AbortRequired if that is late."""
        left = self._serve(self._client.flush, self._loop.commit_timeout_s)
        if left:
            raise AbortRequired(f"{left} records are not delivered in time")

    def close(self) -> None:
        """Drop the client and all it still holds."""
        client, self._open_client = self._open_client, None
        if client is not None:
            with suppress(*CLIENT_EXCEPTIONS):
                client.purge()

    def _serve(self, call: Callable[[float], int], timeout_s: float) -> int:
        """Serve callbacks, in which the client raises its fatal error.

        Raises
        ------
        FencedError
            If another producer owns our id.
        OutcomeUnknown
            If the producer is unusable.
        """
        try:
            return call(timeout_s)
        except CLIENT_EXCEPTIONS as exc:
            error = error_of(exc)
            kind = FencedError if verdict(error) is Verdict.FENCED else OutcomeUnknown
            raise kind(f"{error.name()}: {error.str()}") from exc

    def _produce_later(self, send: Callable[[], None]) -> None:
        """Wait until the queue has room."""
        deadline = Deadline(self._loop.commit_timeout_s)
        while not deadline.expired:
            self._serve(self._client.poll, POLL_S)
            try:
                return send()
            except BufferError:
                continue
        raise AbortRequired("the producer's queue stays full")

    def _produce_error(self, exc: BaseException, topic: str) -> Exception:
        error = error_of(exc)
        if verdict(error) is Verdict.UNDELIVERABLE or verdict(error) is Verdict.CONFIG:
            return translated(error, f"producing to {topic}")
        # Queueing itself does not fail: the transaction or the producer already has.
        return AbortRequired(f"producing to {topic}: {error.name()}", verdict(error))
