"""The command line's view of drift, retrain and routing topics, on a real broker."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from penstock_cli.lifecycle_log import LifecycleLog, now_ms
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import BrokerUnavailable
from penstock_schemas.records import DriftEvent, DriftWindow, RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.settings import KafkaSettings

pytestmark = pytest.mark.integration


@pytest.fixture
def log(kafka_bootstrap: str, registry_url: str) -> Iterator[LifecycleLog]:
    topics = PipelineTopics(f"lifecycle-{uuid.uuid4().hex[:8]}")
    names = [topics.drift, topics.retrain, topics.models]
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap)
    with own_topics(kafka_bootstrap, [NewTopic(name, 1, 1) for name in names]):
        yield LifecycleLog(kafka, RegistryClient(RegistrySettings(url=registry_url)), topics)


def request(log: LifecycleLog) -> RetrainEvent:
    name = f"cli-{uuid.uuid4().hex[:8]}"
    return RetrainEvent.request(name, log.topics.pipeline, now_ms(), "cli", reason="because")


def test_what_is_appended_is_read_back_in_order(log: LifecycleLog) -> None:
    assert log.retrain_events() == []
    assert log.routing() is None
    events = [request(log), request(log)]
    for event in events:
        log.append(event)
    assert log.retrain_events() == events


def test_drift_events_are_read_and_unreadable_ones_passed_over(
    log: LifecycleLog, kafka_bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    window = DriftWindow(log.topics.observations, 0, 1, 9, 9, 5, 6)
    event = DriftEvent(
        "e1", "ep1", log.topics.pipeline, 7, "psi", "data", "amount_log", 0.4, 0.2, 0.01,
        "fraud", "1", window, "", "detected",
    )  # fmt: skip
    schema = schema_text("drift_event.avsc")
    schema_id = log.registry.register(f"{log.topics.drift}-value", schema)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    for value in (b"\x07nonsense", encode_one(schema, schema_id, event.to_dict())):
        producer.produce(log.topics.drift, value, b"fraud")
    assert producer.flush(20) == 0
    assert log.drift_events() == [event]
    assert "offset 0 is unreadable" in capsys.readouterr().err


def test_waiting_returns_as_soon_as_the_request_has_ended(log: LifecycleLog) -> None:
    asked, other = request(log), request(log)
    finished = asked.followed_by("finished", now_ms(), verdict="promoted")

    def others_first() -> None:
        for event in (other, other.followed_by("failed", 1), asked, finished):
            log.append(event)

    writer = threading.Thread(target=others_first)
    writer.start()
    try:
        found = log.wait_for(asked.request_id, lambda e: e.state in ("finished", "failed"), 30.0)
    finally:
        writer.join(30)
    assert found == finished


def test_waiting_has_a_deadline(log: LifecycleLog) -> None:
    with pytest.raises(BrokerUnavailable, match="has not ended"):
        log.wait_for("nobody", lambda _: True, 1.0)
