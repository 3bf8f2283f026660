"""The part of the Kafka client that the loop uses, as protocols; real and fake clients fit."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pkgutil import resolve_name
from typing import Any, Protocol, cast
from weakref import WeakValueDictionary

from confluent_kafka import Consumer, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from penstock_schemas.errors import ConfigError

from penstock_streaming.dead_letters import Header
from penstock_streaming.handler import Handler

logger = logging.getLogger(__name__)

RebalanceCallback = Callable[[Any, list[TopicPartition]], None]


class ConsumerClient(Protocol):
    """What the loop asks of `confluent_kafka.Consumer`."""

    def subscribe(
        self,
        topics: list[str],
        on_assign: RebalanceCallback,
        on_revoke: RebalanceCallback,
        on_lost: RebalanceCallback,
    ) -> None:
        """Join the group."""

    def poll(self, timeout: float) -> Message | None:
        """Wait for one message; callbacks run inside."""

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Take several messages; callbacks run inside."""

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Start to fetch partitions."""

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Fetch partitions no longer."""

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Return no more messages of partitions."""

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Return messages of partitions again."""

    def seek(self, partition: TopicPartition) -> None:
        """Go on at another offset."""

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        """Ask the broker for the group's offsets."""

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Return the offset after the last returned message."""

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        """Commit without a transaction."""

    def consumer_group_metadata(self) -> object:
        """Return what fences a transaction by group membership."""

    def memberid(self) -> str:
        """Return the member id; empty when membership is lost."""

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        """Ask the broker for the first offset of the log and the one after its last."""

    def close(self) -> None:
        """Leave the group."""


class ProducerClient(Protocol):
    """What the loop asks of `confluent_kafka.Producer`."""

    def init_transactions(self, timeout: float) -> None:
        """Take the transactional id and end what an earlier producer left open."""

    def begin_transaction(self) -> None:
        """Open a transaction."""

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int = -1,
        timestamp: int = 0,
        headers: Sequence[Header] | None = None,
    ) -> None:
        """Queue one record."""

    def poll(self, timeout: float) -> int:
        """Serve callbacks."""

    def flush(self, timeout: float) -> int:
        """Wait until the queue is empty; return what is left."""

    def purge(self) -> None:
        """Drop what is queued and in flight."""

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float
    ) -> None:
        """Add the consumer's offsets to the transaction."""

    def commit_transaction(self, timeout: float) -> None:
        """Commit."""

    def abort_transaction(self, timeout: float) -> None:
        """Abort."""


class TopicsClient(Protocol):
    """What the loop asks of `confluent_kafka.admin.AdminClient`."""

    def describe_topics(
        self, topics: TopicCollection, *, request_timeout: float
    ) -> dict[str, Future[Any]]:
        """Ask what topics are."""


class Clients(Protocol):
    """Makes clients from librdkafka configurations."""

    def consumer(self, config: dict[str, Any]) -> ConsumerClient:
        """Return a new consumer."""

    def producer(self, config: dict[str, Any]) -> ProducerClient:
        """Return a new producer."""

    def topics(self, config: dict[str, Any]) -> TopicsClient:
        """Return a client that knows of topics; loops of one process may share it."""


_admins: WeakValueDictionary[tuple[int, str], AdminClient] = WeakValueDictionary()
_admins_lock = threading.Lock()


class ConfluentClients:
    """The real clients.

    All loops of a process with the same configuration share one admin client: each client is three
    or four threads of librdkafka. A forked process makes its own, for threads are not inherited.
    """

    def consumer(self, config: dict[str, Any]) -> ConsumerClient:
        """Return a new consumer."""
        client: Any = Consumer(config)  # its stub spells `commit` as overloads
        return cast("ConsumerClient", client)

    def producer(self, config: dict[str, Any]) -> ProducerClient:
        """Return a new producer."""
        client: Any = Producer(config)  # its stub asks for concrete header lists
        return cast("ProducerClient", client)

    def topics(self, config: dict[str, Any]) -> TopicsClient:
        """Return the process's admin client of this configuration."""
        key = os.getpid(), repr(sorted(config.items()))
        with _admins_lock:
            client = _admins.get(key)
            if client is None:
                _admins[key] = client = AdminClient(config)
        return cast("TopicsClient", client)


LoopWrapper = Callable[[str, Clients, Handler], tuple[Clients, Handler]]
"""Given an argument and a loop's clients and handler, returns those to be used in their place."""


def wrapped(wrapper: str, clients: Clients, handler: Handler) -> tuple[Clients, Handler]:
    """Return clients and handler as `LoopSettings.wrapper` has them: unchanged where it is empty.

    Parameters
    ----------
    wrapper
        ``package.module:function=argument``; the function is a `LoopWrapper`.

    Raises
    ------
    ConfigError
        If there is no such function.
    """
    if not wrapper:
        return clients, handler
    name, _, argument = wrapper.partition("=")
    try:
        wrap: LoopWrapper = resolve_name(name)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"LOOP__WRAPPER: no function {name!r}: {exc}") from exc
    logger.warning("the loop's clients and handler are wrapped by %s", wrapper)
    return wrap(argument, clients, handler)
