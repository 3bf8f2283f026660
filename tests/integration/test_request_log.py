"""The job's events on a real broker: each once, whoever writes, and what cancels is seen."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from harness.kafka import delete_topics
from harness.waiting import background_calls
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import ConfigError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import Topic
from penstock_streaming import admin
from penstock_streaming.settings import KafkaSettings
from penstock_training_job.request import RequestLog, Withdrawn

pytestmark = pytest.mark.integration

SCHEMA = schema_text("retrain_event.avsc")
ASKED = RetrainEvent.request("r1", "fraud", 1, "drift", cause_ids=("d1",), data_since=5)


class RetrainTopic:
    """A retrain topic of a test's own."""

    def __init__(self, bootstrap: str, registry_url: str) -> None:
        self.kafka = KafkaSettings(bootstrap_servers=bootstrap)
        self.registry = RegistryClient(RegistrySettings(url=registry_url))
        self.topic = f"retrain-{uuid.uuid4().hex[:8]}"
        wanted = [Topic(self.topic, 1, "retrain_event.avsc")]
        admin.apply(self.kafka, self.registry, wanted, {})

    def log(self, request_id: str = "r1") -> RequestLog:
        return RequestLog(self.kafka, self.registry, self.topic, request_id)

    def tell(self, value: RetrainEvent | bytes) -> None:
        if isinstance(value, RetrainEvent):
            schema_id = self.registry.register(f"{self.topic}-value", SCHEMA)
            value = encode_one(SCHEMA, schema_id, value.to_dict())
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap_servers})
        producer.produce(self.topic, value, b"fraud")
        assert producer.flush(20) == 0


@pytest.fixture
def topic(kafka_bootstrap: str, registry_url: str) -> Iterator[RetrainTopic]:
    made = RetrainTopic(kafka_bootstrap, registry_url)
    yield made
    delete_topics(kafka_bootstrap, [made.topic])


def test_request_is_found_among_others_and_what_cannot_be_read(topic: RetrainTopic) -> None:
    topic.tell(RetrainEvent.request("r0", "fraud", 1, "cli"))
    topic.tell(b"junk")
    topic.tell(ASKED)
    log = topic.log()
    log.refresh()
    assert log.request == ASKED
    other = topic.log("r2")
    other.refresh()
    with pytest.raises(ConfigError, match="no request 'r2'"):
        _ = other.request


def test_event_is_written_once_and_seen_by_who_comes_later(topic: RetrainTopic) -> None:
    topic.tell(ASKED)
    log = topic.log()
    log.refresh()
    started = log.write("started", run_id="run-1")
    assert (started.event_id, started.actor, started.source) == (
        "r1.started",
        "retrain-job",
        "drift",
    )
    assert log.write("started", run_id="run-2") == started
    for _ in range(3):
        log.refresh()  # past the transaction's own markers, too
    assert topic.log().write("started", run_id="run-3") == started
    log.check_wanted()


def test_of_two_writers_one_writes(topic: RetrainTopic) -> None:
    topic.tell(ASKED)
    found: list[RetrainEvent] = []

    def writer(name: str) -> Callable[[], None]:
        log = topic.log()
        return lambda: found.append(log.write("finished", verdict="promoted", run_id=name))

    writers = [writer("a"), writer("b"), writer("c")]
    with background_calls() as start:
        for one in writers:
            start(one)
    last = topic.log()
    last.refresh()
    assert found == [last.event("finished")] * 3


@pytest.mark.parametrize("state", ["cancelled", "failed", "suppressed"])
def test_request_that_has_ended_is_withdrawn(topic: RetrainTopic, state: str) -> None:
    topic.tell(ASKED)
    log = topic.log()
    log.check_wanted()
    topic.tell(ASKED.followed_by(state, 2, reason="as ann says"))
    with pytest.raises(Withdrawn, match=f"{state}: as ann says"):
        log.check_wanted()
