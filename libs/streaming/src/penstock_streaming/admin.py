"""Topics and schemas as they should be, against the broker and the registry as they are.

`plan` only looks; `apply` makes what `plan` found and may be repeated. Partitions are never
removed, topics never deleted, and configuration that we do not name is left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from penstock_schemas.errors import BrokerUnavailable, DataGap, SchemaIncompatible
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import Topic

from penstock_streaming.clients import TopicsClient
from penstock_streaming.errors import client_errors, error_of
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

if TYPE_CHECKING:
    # Its client takes as long to import as all of the loop, which asks for a topic's id only.
    from penstock_registry.schema_registry import RegistryClient

logger = logging.getLogger(__name__)

VISIBLE_S: Final = 30.0
"""Longest wait for created topics to show in the metadata, seconds."""
_POLL_S: Final = 0.05
IDENTITY_EVERY_S: Final = 30.0
"""Time between two looks at a topic's id: it changes with an operator's mistake only, seconds."""
IDENTITY_TIMEOUT_S: Final = 5.0
LEVEL: Final = "BACKWARD"
LEVELS_AT_LEAST: Final = frozenset({LEVEL, "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"})


class Action(Enum):
    """What a change does; in the order in which changes are applied."""

    CREATE_TOPIC = "create topic"
    ADD_PARTITIONS = "add partitions"
    ALTER_CONFIG = "alter config"
    SET_COMPATIBILITY = "set compatibility"
    REGISTER_SCHEMA = "register schema"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is wanted and what is there.

    Parameters
    ----------
    target
        The topic, or for schemas the subject.
    detail
        From and to, for people.
    topic, config, schema
        What to make of it: the topic wanted, the entries to set, the schema text.
    """

    action: Action
    target: str
    detail: str
    topic: Topic | None = field(default=None, repr=False)
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    schema: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.action.value} {self.target}: {self.detail}"


def plan(
    kafka: KafkaSettings,
    registry: RegistryClient,
    topics: Sequence[Topic],
    schemas: Mapping[str, str],
) -> list[Change]:
    """Return the changes that make broker and registry as wanted; empty if they are.

    Parameters
    ----------
    topics
        Every topic that shall be there; those with a ``value_schema`` get its subject.
    schemas
        Schema text by topic for values that no shipped schema describes, such as a pipeline's own
        ``event.avsc``.

    Raises
    ------
    SchemaIncompatible
        If a schema may not follow the subject's latest one; it names the subject.
    BrokerUnavailable, RegistryUnavailable
        If one of them does not answer.
    """
    admin = admin_client(kafka)
    changes = plan_topics(admin, topics, kafka.request_timeout_s)
    for subject, text in _subjects(topics, schemas).items():
        changes.extend(_plan_subject(registry, subject, text))
    return sorted(changes, key=lambda change: list(Action).index(change.action))


def apply(
    kafka: KafkaSettings,
    registry: RegistryClient,
    topics: Sequence[Topic],
    schemas: Mapping[str, str],
) -> list[Change]:
    """Make what `plan` finds, and return it; a second call finds nothing.

    Topics are there, with all their partitions, when it returns.

    Raises
    ------
    SchemaIncompatible
        As `plan`; also for a subject whose level was not BACKWARD before.
    BrokerUnavailable, RegistryUnavailable
        If one of them does not answer. What was made until then stays; call again.
    """
    changes = plan(kafka, registry, topics, schemas)
    admin = admin_client(kafka)
    for change in changes:
        if change.action is Action.SET_COMPATIBILITY:
            registry.set_compatibility(change.target, LEVEL)
        elif change.action is Action.REGISTER_SCHEMA:
            registry.register(change.target, change.schema)
    change_topics(admin, changes, kafka.request_timeout_s)
    wait_visible(admin, topics, kafka.request_timeout_s)
    return changes


def _subjects(topics: Sequence[Topic], schemas: Mapping[str, str]) -> dict[str, str]:
    found = {f"{t.name}-value": schema_text(t.value_schema) for t in topics if t.value_schema}
    found.update({f"{topic}-value": text for topic, text in schemas.items()})
    return found


def _plan_subject(registry: RegistryClient, subject: str, text: str) -> Iterator[Change]:
    level = registry.compatibility(subject)
    if level not in LEVELS_AT_LEAST:
        detail = f"{level or 'default'} → {LEVEL}"
        yield Change(Action.SET_COMPATIBILITY, subject, detail)
    if registry.registered_id(subject, text) is not None:
        return
    if not registry.is_compatible(subject, text):
        raise SchemaIncompatible(
            f"subject {subject!r}: the schema cannot read what its latest version wrote; "
            "give new fields a default and keep the types of old ones"
        )
    yield Change(Action.REGISTER_SCHEMA, subject, "new version", schema=text)


def admin_client(kafka: KafkaSettings) -> Any:
    """Return a client for administration."""
    config: dict[str, Any] = kafka.as_librdkafka()
    return AdminClient(config)


def plan_topics(admin: Any, topics: Sequence[Topic], timeout_s: float) -> list[Change]:
    """Return what the broker's topics lack."""
    there = _partitions(admin, timeout_s)
    configs = _configs(admin, [t.name for t in topics if t.name in there], timeout_s)
    changes: list[Change] = []
    for topic in topics:
        if topic.name not in there:
            detail = ", ".join(
                [f"{topic.partitions} partitions", *(f"{k}={v}" for k, v in topic.config.items())]
            )
            changes.append(Change(Action.CREATE_TOPIC, topic.name, detail, topic))
            continue
        if there[topic.name] < topic.partitions:
            detail = f"{there[topic.name]} → {topic.partitions}, keys move"
            changes.append(Change(Action.ADD_PARTITIONS, topic.name, detail, topic))
        config = configs[topic.name]
        other = {k: v for k, v in topic.config.items() if config.get(k) != v}
        if other:
            detail = ", ".join(f"{k}: {config.get(k)} → {v}" for k, v in other.items())
            changes.append(Change(Action.ALTER_CONFIG, topic.name, detail, topic, other))
    return changes


def _partitions(admin: Any, timeout_s: float) -> dict[str, int]:
    with client_errors("reading the topics"):
        metadata = admin.list_topics(timeout=timeout_s)
    return {name: len(t.partitions) for name, t in metadata.topics.items() if t.error is None}


def _configs(admin: Any, names: list[str], timeout_s: float) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    with client_errors("reading the topics' configuration"):
        futures = admin.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names],
            request_timeout=timeout_s,
        )
        return {
            resource.name: {k: entry.value for k, entry in future.result(timeout_s).items()}
            for resource, future in futures.items()
        }


def change_topics(admin: Any, changes: Sequence[Change], timeout_s: float) -> None:
    """Make the changes that are about topics."""
    chosen = {a: [c for c in changes if c.action is a and c.topic] for a in Action}
    new = [
        NewTopic(c.target, c.topic.partitions, config=dict(c.topic.config))
        for c in chosen[Action.CREATE_TOPIC]
        if c.topic
    ]
    if new:
        with client_errors("creating topics"):
            _finish(admin.create_topics(new, request_timeout=timeout_s), timeout_s)
    more = [
        NewPartitions(c.target, c.topic.partitions)
        for c in chosen[Action.ADD_PARTITIONS]
        if c.topic
    ]
    if more:
        with client_errors("adding partitions"):
            _finish(admin.create_partitions(more, request_timeout=timeout_s), timeout_s)
    altered = [_config_resource(c) for c in chosen[Action.ALTER_CONFIG]]
    if altered:
        with client_errors("altering the topics' configuration"):
            futures = admin.incremental_alter_configs(altered, request_timeout=timeout_s)
            _finish(futures, timeout_s)


def _config_resource(change: Change) -> Any:
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in change.config.items()
    ]
    return ConfigResource(ResourceType.TOPIC, change.target, incremental_configs=entries)


def _finish(futures: Mapping[Any, Future[Any]], timeout_s: float) -> None:
    deadline = Deadline(timeout_s)
    for future in futures.values():
        future.result(deadline.remaining_s)


def wait_visible(admin: Any, topics: Sequence[Topic], timeout_s: float) -> None:
    """Wait until the metadata show every topic: a created one takes a moment."""
    deadline = Deadline(VISIBLE_S)
    pause = threading.Event()
    while True:
        there = _partitions(admin, timeout_s)
        missing = [t.name for t in topics if there.get(t.name, 0) < t.partitions]
        if not missing:
            return
        if deadline.expired:
            raise BrokerUnavailable(f"topic {missing[0]} does not appear in {VISIBLE_S:.0f} s")
        pause.wait(_POLL_S)


class TopicIdentity:
    """Notices that a topic was deleted and made again, where no offset would tell.

    Parameters
    ----------
    topic
        The input topic.
    client
        Asked without waiting for it.
    """

    def __init__(self, topic: str, client: TopicsClient) -> None:
        self._topic = topic
        self._client: TopicsClient | None = client
        self._known: str | None = None
        self._answer: Future[Any] | None = None
        self._ask_at = 0.0

    def check(self, positions: Mapping[int, int], now_s: float) -> None:
        """Look at the answer if there is a new one, and ask again when that is due.

        Parameters
        ----------
        positions
            Offsets up to which the partitions of this member have been read.
        now_s
            Monotonic seconds.

        Raises
        ------
        DataGap
            If it is another topic of the same name.
        """
        if self._answer is not None and self._answer.done():
            answer, self._answer = self._answer, None
            self._compare(answer, positions)
        if self._answer is None and self._client is not None and now_s >= self._ask_at:
            self._ask_at = now_s + IDENTITY_EVERY_S
            wanted = TopicCollection([self._topic])
            answers = self._client.describe_topics(wanted, request_timeout=IDENTITY_TIMEOUT_S)
            self._answer = answers[self._topic]

    def close(self) -> None:
        """Drop the client."""
        self._client = self._answer = None

    def _compare(self, answer: Future[Any], positions: Mapping[int, int]) -> None:
        try:
            found = str(answer.result(0).topic_id)
        except KafkaException as exc:
            logger.debug("%s: its id is not known: %s", self._topic, error_of(exc).name())
            self._ask_at = 0.0  # a topic made again before its id is known would go unnoticed
            return
        if self._known is not None and found != self._known:
            reason = f"the topic was deleted and made again (id {self._known}, now {found})"
            raise DataGap(self._topic, {p: (end, None) for p, end in positions.items()}, reason)
        self._known = found
