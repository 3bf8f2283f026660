"""Topics and schemas as they should be, against the broker and the registry as they are.

`plan` only looks; `apply` makes what `plan` found and may be repeated. Partitions are never
removed, topics never deleted, and configuration that we do not name is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from penstock_registry.client import RegistryClient
from penstock_schemas.errors import SchemaIncompatible
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import Topic

from penstock_streaming.changes import Action, Change
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.topic_admin import admin_client, change_topics, plan_topics, wait_visible

__all__ = ["LEVEL", "Action", "Change", "apply", "plan"]

LEVEL: Final = "BACKWARD"
LEVELS_AT_LEAST: Final = frozenset({LEVEL, "BACKWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"})


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
