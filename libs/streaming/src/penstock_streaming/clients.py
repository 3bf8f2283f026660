"""The part of the Kafka client that the loop uses, as protocols; real and fake clients fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, cast

from confluent_kafka import Consumer, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from penstock_streaming.dead_letters import Header

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
        """Return a new client that knows of topics."""


class ConfluentClients:
    """The real clients."""

    def consumer(self, config: dict[str, Any]) -> ConsumerClient:
        """Return a new consumer."""
        client: Any = Consumer(config)  # its stub spells `commit` as overloads
        return cast("ConsumerClient", client)

    def producer(self, config: dict[str, Any]) -> ProducerClient:
        """Return a new producer."""
        client: Any = Producer(config)  # its stub asks for concrete header lists
        return cast("ProducerClient", client)

    def topics(self, config: dict[str, Any]) -> TopicsClient:
        """Return a new admin client."""
        client: Any = AdminClient(config)  # it has no stub
        return cast("TopicsClient", client)
