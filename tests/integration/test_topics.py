"""Topics and subjects on a real broker and registry."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from harness.kafka import delete_topics
from penstock_schemas.errors import BrokerUnavailable, SchemaError, SchemaIncompatible
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics, Topic
from penstock_streaming.admin import Action, apply, plan
from penstock_streaming.settings import KafkaSettings

pytestmark = pytest.mark.integration


def event_schema(*fields: Any) -> str:
    return json.dumps({"type": "record", "name": "Event", "fields": list(fields)})


EVENT = event_schema({"name": "id", "type": "string"}, {"name": "x", "type": "int"})


@pytest.fixture
def names(kafka: KafkaSettings) -> Iterator[PipelineTopics]:
    topics = PipelineTopics(f"topics-{uuid.uuid4().hex[:8]}")
    yield topics
    delete_topics(kafka.bootstrap_servers, [topic.name for topic in topics.all(1)])


def test_apply_makes_what_plan_shows_and_then_nothing_is_left(kafka, registry, names) -> None:
    topics, schemas = names.all(2), {names.events: EVENT}
    shown = plan(kafka, registry, topics, schemas)
    subjects = {f"{t.name}-value" for t in topics if t.value_schema} | {f"{names.events}-value"}
    created = {c.target for c in shown if c.action is Action.CREATE_TOPIC}
    assert created == {t.name for t in topics}
    assert {c.target for c in shown if c.action is Action.REGISTER_SCHEMA} == subjects

    assert apply(kafka, registry, topics, schemas) == shown
    assert plan(kafka, registry, topics, schemas) == []
    assert apply(kafka, registry, topics, schemas) == []
    assert {registry.compatibility(subject) for subject in subjects} == {"BACKWARD"}
    own = registry.registered_id(f"{names.predictions}-value", schema_text("prediction.avsc"))
    assert own is not None
    assert json.loads(registry.schema_text(own))["name"] == "Prediction"


def test_growth_and_configuration_are_altered_and_never_shrunk(kafka, registry, names) -> None:
    topics = [Topic(names.events, 2), Topic(names.features, 1)]
    apply(kafka, registry, topics, {})
    wanted = [replace(topics[0], partitions=3), replace(topics[1], config={"retention.ms": "1000"})]
    shown = plan(kafka, registry, wanted, {})
    assert [(c.action, c.target) for c in shown] == [
        (Action.ADD_PARTITIONS, names.events),
        (Action.ALTER_CONFIG, names.features),
    ]
    apply(kafka, registry, wanted, {})
    assert plan(kafka, registry, wanted, {}) == []
    assert plan(kafka, registry, [topics[0]], {}) == []  # 2 wanted, 3 there


def test_schema_may_grow_and_may_not_break(kafka, registry, names) -> None:
    topics = [Topic(names.events, 1)]
    apply(kafka, registry, topics, {names.events: EVENT})
    grown = event_schema(
        {"name": "id", "type": "string"},
        {"name": "x", "type": "long"},
        {"name": "y", "type": ["null", "string"], "default": None},
    )
    apply(kafka, registry, topics, {names.events: grown})
    assert plan(kafka, registry, topics, {names.events: grown}) == []
    broken = event_schema({"name": "id", "type": "string"}, {"name": "x", "type": "string"})
    for attempt in (plan, apply):
        with pytest.raises(SchemaIncompatible, match=f"{names.events}-value"):
            attempt(kafka, registry, topics, {names.events: broken})


def test_ids_are_stable_and_an_unknown_one_is_a_schema_error(registry, names) -> None:
    subject = f"{names.events}-value"
    first = registry.register(subject, EVENT)
    assert registry.register(subject, EVENT) == first
    assert json.loads(registry.schema_text(first)) == json.loads(EVENT)
    with pytest.raises(SchemaError):
        registry.schema_text(2**31 - 1)


def test_absent_broker_is_named_in_time(registry) -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:9", request_timeout_s=1.0)
    with pytest.raises(BrokerUnavailable, match="reading the topics"):
        plan(nowhere, registry, [Topic("t", 1)], {})
