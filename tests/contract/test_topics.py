"""Every topic has an owner, and a schema unless its value is raw by design."""

from __future__ import annotations

import pytest
from penstock_schemas.avro_schema import parse_record
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import (
    DEAD_LETTER_HEADROOM_BYTES,
    EVENTS_MAX_BYTES,
    PipelineTopics,
    Topic,
)

NAMES = PipelineTopics("fraud")
TOPICS = {topic.name: topic for topic in NAMES.all(4)}
DEAD = {
    name(source)
    for source in (NAMES.events, NAMES.features, NAMES.interactions)
    for name in (NAMES.dead_letter, NAMES.parked)
} | {NAMES.dead_letter(source) for source in (NAMES.predictions, NAMES.observations)}
SINGLE = {
    NAMES.models,
    NAMES.observations,
    NAMES.dead_letter(NAMES.observations),
    NAMES.drift,
    NAMES.drift_state,
    NAMES.retrain,
}
RAW_BY_DESIGN = {
    NAMES.events: "the user's own schema, registered from the pipeline's folder",
    NAMES.ingest_state: "packed aggregates, read by ingest alone",
    **dict.fromkeys(DEAD, "the original bytes"),
}


def test_names_are_those_of_the_contract() -> None:
    assert set(TOPICS) == {
        "fraud.events.v1",
        "fraud.features.v1",
        "fraud.predictions.v1",
        "fraud.predictions.rest.v1",
        "fraud.predictions.shadow.v1",
        "fraud.interactions.v1",
        "fraud.models.v1",
        "fraud.drift.v1",
        "fraud.retrain.v1",
        "fraud.observations.v1",
        "fraud.drift-state.v1",
        "fraud.ingest-state.v1",
        "fraud.events.v1.dlq",
        "fraud.events.v1.parked",
        "fraud.features.v1.dlq",
        "fraud.features.v1.parked",
        "fraud.interactions.v1.dlq",
        "fraud.interactions.v1.parked",
        "fraud.predictions.v1.dlq",
        "fraud.observations.v1.dlq",
    }


@pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda t: t.name)
def test_topic_has_an_owner_and_a_schema_or_is_raw_by_design(topic: Topic) -> None:
    assert topic.written_by
    assert (topic.value_schema is None) == (topic.name in RAW_BY_DESIGN)
    if topic.value_schema is not None:
        assert parse_record(schema_text(topic.value_schema)).fields


def test_outputs_have_the_partitions_of_their_source() -> None:
    for name, topic in TOPICS.items():
        assert topic.partitions == (1 if name in SINGLE else 4)


@pytest.mark.parametrize("name", sorted(DEAD))
def test_every_event_fits_into_its_dead_letter_topic(name: str) -> None:
    assert int(TOPICS[NAMES.events].config["max.message.bytes"]) == EVENTS_MAX_BYTES
    largest = int(TOPICS[name].config["max.message.bytes"])
    assert largest == EVENTS_MAX_BYTES + DEAD_LETTER_HEADROOM_BYTES


@pytest.mark.parametrize("name", sorted({NAMES.events, NAMES.interactions} | DEAD))
def test_records_of_any_timestamp_are_taken_and_none_is_deleted_for_its_age(name: str) -> None:
    config = TOPICS[name].config
    for side in ("before", "after"):
        assert config[f"message.timestamp.{side}.max.ms"] == str(2**63 - 1)
    assert config["retention.ms"] == "-1"
    assert int(config["retention.bytes"]) > 0


def test_names_may_be_brought_along() -> None:
    own = PipelineTopics("fraud", {"events": "cards"})
    names = {t.name for t in own.all(1)}
    assert {"cards", "cards.dlq", "cards.parked", "fraud.features.v1"} <= names
