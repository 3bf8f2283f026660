"""What is read of the cluster: topics and consumer groups as they are now, and records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    ResourceType,
)
from penstock_schemas.errors import ConfigError, Refused
from penstock_streaming.admin import admin_client
from penstock_streaming.errors import client_errors
from penstock_streaming.log_view import LogView, RecordsGone, Span
from penstock_streaming.settings import KafkaSettings

from penstock_replay.offsets import Bound, Edge, OffsetBound, RecordId, TimeBound

_SEEK_FROM: Final = 2000
"""Offsets between two wanted records from which a read of its own is cheaper than reading on."""


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


class Broker:
    """Asks the cluster; every call has the deadline of the settings."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._admin = admin_client(kafka)
        self._timeout_s = kafka.request_timeout_s
        # A record that retention has passed is an error, never skipped in silence.
        self._view = LogView(kafka, gap="error")

    def topic_names(self) -> frozenset[str]:
        """Return the names of all topics."""
        return self._view.topic_names()

    def topic(self, name: str) -> TopicFacts:
        """Return a topic's facts.

        Raises
        ------
        ConfigError
            If there is no such topic.
        BrokerUnavailable
            If no broker answers.
        """
        if name not in self.topic_names():
            raise ConfigError(
                f"topic {name!r}: there is none; 'penstock topics plan' shows what is missing"
            )
        with client_errors(f"reading {name}"):
            asked = self._admin.describe_topics(
                TopicCollection([name]), request_timeout=self._timeout_s
            )
            found = asked[name].result(self._timeout_s)
        partitions = [(name, p.id) for p in found.partitions]
        oldest = self._view.begin_offsets(partitions)
        ends = self._view.end_offsets(partitions, committed=True)
        return TopicFacts(
            name,
            str(found.topic_id),
            {p: offset for (_, p), offset in oldest.items()},
            {p: offset for (_, p), offset in ends.items()},
        )

    def offsets_of(self, bound: Bound, facts: TopicFacts) -> Mapping[int, int]:
        """Return the offsets of a bound by partition; errors as `TopicFacts.named`.

        Of a time it is the first offset whose timestamp is not before it.
        """
        match bound:
            case Edge.START:
                return facts.oldest
            case Edge.END:
                return facts.ends
            case TimeBound(at_ms):
                return self._first_at(facts, at_ms)
            case OffsetBound():
                return facts.named(bound)

    def _first_at(self, facts: TopicFacts, at_ms: int) -> dict[int, int]:
        found = self._view.offsets_at([(facts.name, p) for p in facts.ends], at_ms)
        ends = facts.ends
        return {p: min(found.get((facts.name, p), end), end) for p, end in ends.items()}

    def read(self, topic: str, spans: Mapping[int, Span]) -> Iterator[list[Message]]:
        """Yield the records of spans in batches, in order within a partition.

        Raises
        ------
        Refused
            If retention passes a record before it is read.
        BrokerUnavailable
            If nothing comes for a minute.
        """
        try:
            yield from self._view.read({(topic, p): span for p, span in spans.items()})
        except RecordsGone as exc:
            raise Refused(
                f"{topic}: retention has passed the first records; "
                "'--from start' takes what is left"
            ) from exc

    def records(self, ids: Iterable[RecordId]) -> dict[RecordId, Message]:
        """Return single records; one that is not there any more is missing in the answer."""
        found: dict[RecordId, Message] = {}
        by_partition = groupby(sorted(ids), key=lambda one: (one.topic, one.partition))
        for (topic, partition), group in by_partition:
            for run in _runs([one.offset for one in group]):
                try:
                    for batch in self.read(topic, {partition: Span(run[0], run[-1] + 1)}):
                        found.update(
                            (RecordId(topic, partition, m.offset() or 0), m)
                            for m in batch
                            if (m.offset() or 0) in run
                        )
                except Refused:
                    continue
        return found

    def settings(self, name: str) -> dict[str, str]:
        """Return a topic's configuration."""
        with client_errors(f"reading the configuration of {name}"):
            futures = self._admin.describe_configs(
                [ConfigResource(ResourceType.TOPIC, name)], request_timeout=self._timeout_s
            )
            (future,) = futures.values()
            return {key: entry.value for key, entry in future.result(self._timeout_s).items()}

    def groups(self) -> dict[str, str]:
        """Return the state of every consumer group, by name."""
        with client_errors("reading the consumer groups"):
            found = self._admin.list_consumer_groups(request_timeout=self._timeout_s)
            valid = found.result(self._timeout_s).valid
        return {g.group_id: str(g.state.name).lower() for g in valid}

    def members(self, group: str) -> list[str]:
        """Return the client ids and hosts of a group's members."""
        with client_errors(f"reading group {group}"):
            asked = self._admin.describe_consumer_groups([group], request_timeout=self._timeout_s)
            found = asked[group].result(self._timeout_s)
        return [f"{m.client_id} at {m.host}" for m in found.members]

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """Return a group's committed offsets by topic and partition."""
        with client_errors(f"reading the offsets of group {group}"):
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
        wanted = [TopicPartition(t, p, offset) for (t, p), offset in sorted(offsets.items())]
        with client_errors(f"setting the offsets of group {group}"):
            asked = self._admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, wanted)], request_timeout=self._timeout_s
            )
            answer = asked[group].result(self._timeout_s)
            for partition in answer.topic_partitions:
                if partition.error is not None:
                    raise KafkaException(partition.error)


def _runs(offsets: list[int]) -> Iterator[list[int]]:
    """Split ascending offsets where they are far apart."""
    run = offsets[:1]
    for offset in offsets[1:]:
        if offset - run[-1] > _SEEK_FROM:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run
