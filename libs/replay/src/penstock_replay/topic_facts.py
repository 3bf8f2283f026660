"""What the broker says of a topic: identity, partitions, where they begin and end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    OffsetSpec,
    ResourceType,
)
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_streaming.admin import admin_client
from penstock_streaming.errors import error_of, translated
from penstock_streaming.settings import KafkaSettings

from penstock_replay.bounds import OffsetBound

_END_OF_LOG = -1


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic as it is now.

    Parameters
    ----------
    topic_id
        Identity: changes when the topic is deleted and created again.
    oldest, ends
        By partition: the first offset that is left, and the one after the last that is stable.
    """

    name: str
    topic_id: str
    oldest: Mapping[int, int]
    ends: Mapping[int, int]

    def named(self, bound: OffsetBound) -> dict[int, int]:
        """Return the offsets of a bound in the partitions that it is about.

        Raises
        ------
        ConfigError
            If it names a partition that is not there.
        """
        unknown = sorted(set(bound.by_partition or ()) - set(self.ends))
        if unknown:
            raise ConfigError(
                f"@{unknown[0]}:…: {self.name} has no partition {unknown[0]}, it has "
                f"{len(self.ends)} from 0 on"
            )
        offsets = {p: bound.of(p) for p in self.ends}
        return {p: offset for p, offset in offsets.items() if offset is not None}


class BrokerFacts:
    """Asks the broker; every call has the deadline of the settings."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._admin = admin_client(kafka)
        self._timeout_s = kafka.request_timeout_s

    def names(self) -> frozenset[str]:
        """Return the names of all topics."""
        with broker_errors("reading the topics"):
            return frozenset(self._admin.list_topics(timeout=self._timeout_s).topics)

    def topic(self, name: str) -> TopicFacts:
        """Return a topic's facts.

        Raises
        ------
        ConfigError
            If there is no such topic.
        BrokerUnavailable
            If no broker answers.
        """
        if name not in self.names():
            raise ConfigError(
                f"topic {name!r}: there is none; 'penstock topics plan' shows what is missing"
            )
        with broker_errors(f"reading {name}"):
            asked = self._admin.describe_topics(
                TopicCollection([name]), request_timeout=self._timeout_s
            )
            found = asked[name].result(self._timeout_s)
        partitions = [p.id for p in found.partitions]
        return TopicFacts(
            name,
            str(found.topic_id),
            self.offsets(name, partitions, OffsetSpec.earliest()),  # type: ignore[no-untyped-call]
            self.offsets(name, partitions, OffsetSpec.latest()),  # type: ignore[no-untyped-call]
        )

    def offsets(self, name: str, partitions: Iterable[int], spec: Any) -> dict[int, int]:
        """Return an offset per partition, as read_committed readers see the log."""
        wanted = {TopicPartition(name, p): spec for p in partitions}
        if not wanted:
            return {}
        with broker_errors(f"reading the offsets of {name}"):
            futures = self._admin.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self._timeout_s,
            )
            return {p.partition: f.result(self._timeout_s).offset for p, f in futures.items()}

    def first_at(self, facts: TopicFacts, at_ms: int) -> dict[int, int]:
        """Return, per partition, the first offset whose timestamp is not before ``at_ms``."""
        spec = OffsetSpec.for_timestamp(at_ms)
        found = self.offsets(facts.name, facts.ends, spec)
        ends = facts.ends
        return {p: ends[p] if o == _END_OF_LOG else min(o, ends[p]) for p, o in found.items()}

    def settings(self, name: str) -> dict[str, str]:
        """Return a topic's configuration."""
        with broker_errors(f"reading the configuration of {name}"):
            futures = self._admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, name)], request_timeout=self._timeout_s
            )
            (future,) = futures.values()
            return {key: entry.value for key, entry in future.result(self._timeout_s).items()}

    def groups(self) -> dict[str, str]:
        """Return the state of every consumer group, by name."""
        with broker_errors("reading the consumer groups"):
            found = self._admin.list_consumer_groups(request_timeout=self._timeout_s)
            valid = found.result(self._timeout_s).valid
        return {g.group_id: str(g.state.name).lower() for g in valid}

    def members(self, group: str) -> list[str]:
        """Return the client ids and hosts of a group's members."""
        with broker_errors(f"reading group {group}"):
            asked = self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s)
            found = asked[group].result(self._timeout_s)
        return [f"{m.client_id} at {m.host}" for m in found.members]

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Return a group's committed offsets by topic and partition."""
        with broker_errors(f"reading the offsets of group {group}"):
            asked = self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout_s
            )
            found = asked[group].result(self._timeout_s).topic_partitions
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Set a group's offsets.

        Raises
        ------
        PenstockError
            If the broker refuses one of them; a group with members is such a case.
        """
        places = [TopicPartition(t, p, offset) for (t, p), offset in sorted(offsets.items())]
        with broker_errors(f"setting the offsets of group {group}"):
            asked = self._admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, places)], request_timeout=self._timeout_s
            )
            answer = asked[group].result(self._timeout_s)
            for place in answer.topic_partitions:
                if place.error is not None:
                    raise KafkaException(place.error)


@contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Translate the client's errors."""
    try:
        yield
    except KafkaException as exc:
        raise translated(error_of(exc), doing) from exc
    except FutureTimeout as exc:
        raise BrokerUnavailable(f"{doing}: no answer in time") from exc
