"""One check of a running pipeline, from Kafka to the report, of all its events or of a window.

Timestamps of events are whatever their producers say, and dead letters keep them. So only the
events are found by time; outputs are found by the events they name, which grow along a partition.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from penstock_ledger.checks import Report, check
from penstock_ledger.decoding import RecordDecoder, Unreadable
from penstock_ledger.log_client import LogClient
from penstock_ledger.reader import ReadOptions, read_pipeline
from penstock_ledger.records import LedgerTopics, Role
from penstock_ledger.store import Store
from penstock_ledger.topic_range import LedgerUnreachable, consumer_config, raw_record

BY_ORIGIN: Final[tuple[Role, ...]] = ("features", "predictions")
Since = int | Callable[[int], int | None] | None
"""Events from a timestamp on, milliseconds since the epoch; or of each partition from an offset on,
where None is its beginning. None of both: all."""
_POLL_S: Final = 0.2


def window_from(
    topics: LedgerTopics, options: ReadOptions, since: Since
) -> dict[str, dict[int, int]]:
    """Return the first offsets per topic of a window, as `ReadOptions.start` takes them.

    Parameters
    ----------
    since
        The first event of each partition.

    Raises
    ------
    LedgerUnreachable
        If Kafka or the registry does not answer in time.
    """
    if since is None:
        return {}
    client = LogClient(options.bootstrap_servers, options.client)
    if callable(since):
        events = {p: since(p) or 0 for p in client.partitions(topics.events)}
    else:
        events = client.offsets_at(topics.events, since)
    found: dict[str, dict[int, int]] = {topics.events: events}
    search = _Search(options, RecordDecoder(options.schemas))
    for role in BY_ORIGIN:
        name = topics.name(role)
        first = client.offsets(name, "first", "read_uncommitted")
        end = client.offsets(name, "last", "read_committed")
        with search.reading(name):
            found[name] = {
                p: search.first_of(p, events.get(p, 0), first[p], end[p]) for p in sorted(end)
            }
    return found


class _Search:
    """Looks for places in a topic by the origins of its records."""

    def __init__(self, options: ReadOptions, decoder: RecordDecoder) -> None:
        self._options = options
        self._decoder = decoder
        self._deadline = time.monotonic() + options.timeout_s
        self._topic = ""
        self._consumer: Consumer | None = None

    @contextmanager
    def reading(self, topic: str) -> Iterator[None]:
        """Open a topic."""
        options = self._options
        settings = consumer_config(options.bootstrap_servers, "read_committed")
        self._consumer = Consumer({**options.client, **settings, "queued.min.messages": 1})
        self._topic = topic
        try:
            yield
        except KafkaException as exc:
            raise LedgerUnreachable(f"{topic}: {exc}") from exc
        finally:
            self._consumer.close()

    def first_of(self, partition: int, origin: int, low: int, high: int) -> int:
        """Return the offset from which on all records come from ``origin`` or later."""
        while low < high:
            middle = (low + high) // 2
            found = self._origin_at(partition, middle, high)
            if found is None or found[1] >= origin:
                high = middle
            else:
                low = found[0] + 1
        return low

    def _origin_at(self, partition: int, offset: int, end: int) -> tuple[int, int] | None:
        """Return (offset, its origin's offset) of the first readable record from ``offset`` on."""
        assert self._consumer is not None  # noqa: S101 - opened by `reading`
        self._consumer.assign([TopicPartition(self._topic, partition, offset)])
        while True:
            message = self._next()
            if message is None or (message.offset() or 0) >= end:
                return None
            try:
                origin = self._decoder.value(raw_record(message)).get("origin")
            except Unreadable:
                continue
            if origin is not None:
                return message.offset() or 0, int(origin["offset"])

    def _next(self) -> Message | None:
        """Return the next record; None at the end of the partition."""
        assert self._consumer is not None  # noqa: S101
        while time.monotonic() < self._deadline:
            message = self._consumer.poll(_POLL_S)
            error = None if message is None else message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                return None
            if message is not None and error is None:
                return message
        raise LedgerUnreachable(f"{self._topic}: not found in time where the window begins")


def check_pipeline(
    topics: LedgerTopics,
    options: ReadOptions,
    since: Since = None,
    folder: Path | None = None,
) -> Report:
    """Read a pipeline's log, still growing or not, and check it.

    Parameters
    ----------
    since
        Look only at the events from then on; at all by default.
    folder
        Where the database lies meanwhile, about 0.5 GB per million events; the system's temporary
        folder by default.

    Raises
    ------
    LedgerUnreachable
        If Kafka or the registry does not answer, or the time is up.
    ConfigError
        If there is no such pipeline.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-ledger-", dir=folder) as place:
        store = Store(topics, Path(place) / "ledger.sqlite")
        try:
            if since is not None:
                options = replace(options, start=window_from(topics, options, since))
            read_pipeline(store, options)
            return check(store)
        finally:
            store.close()
