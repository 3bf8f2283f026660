"""The retrain topic on a real broker: read to its end, written under a fence."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from penstock_registry.schema_registry import RegistryClient
from penstock_retrain_trigger.retrain_log import RetrainLog
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import BrokerUnavailable, FencedError, RecordError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_streaming.settings import KafkaSettings

pytestmark = pytest.mark.integration

Make = Callable[..., RetrainLog]


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"retrain-{uuid.uuid4().hex[:8]}"
    with own_topics(kafka_bootstrap, [NewTopic(name, 1, 1)]):
        yield name


@pytest.fixture
def make(kafka_bootstrap: str, registry: RegistryClient, topic: str) -> Make:
    """Return a maker of logs; the pipeline's name is the topic's, for an id of its own."""
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap)

    def made(name: str = topic, timeout_s: float = 20.0) -> RetrainLog:
        return RetrainLog(kafka, registry, name, topic, timeout_s)

    return made


def play(scene: Callable[[], Awaitable[None]], *logs: RetrainLog) -> None:
    async def all_of_it() -> None:
        try:
            await scene()
        finally:
            for log in logs:
                await log.close()

    asyncio.run(all_of_it())


async def told(log: RetrainLog) -> list[Any]:
    """Return what a log tells when it is read: event ids, and the errors' classes."""
    found: list[tuple[int, Any]] = []

    def unreadable(offset: int, error: RecordError) -> None:
        found.append((offset, type(error).__name__))

    await log.read(lambda offset, event: found.append((offset, event.event_id)), unreadable)
    assert [offset for offset, _ in found] == sorted({offset for offset, _ in found})
    return [what for _, what in found]


def test_what_is_written_is_read_once_by_each(make: Make, topic: str) -> None:
    log, other = make(), make()
    asked = RetrainEvent.request("r1", topic, 1, "cli", cause_ids=("d1",), data_since=5)

    async def scene() -> None:
        assert await told(log) == []
        await log.open()
        assert await log.write(asked) == 0
        assert await log.write(asked.followed_by("accepted", 2)) > 1, "no transaction of its own"
        assert await told(other) == ["r1", "r1.accepted"]
        assert await told(other) == []

    play(scene, log)


def test_event_comes_back_as_it_was_written(make: Make, topic: str) -> None:
    log = make()
    asked = RetrainEvent.request("r1", topic, 1, "drift", cause_ids=("d1",), data_since=5)
    event = asked.followed_by("finished", 2, verdict="promoted", metrics={"gain_low": 0.1})
    found: list[RetrainEvent] = []

    async def scene() -> None:
        await log.open()
        await log.write(event)
        await log.read(lambda _, each: found.append(each), lambda *_: None)

    play(scene, log)
    assert found == [event]


def test_who_was_there_before_can_write_no_more(make: Make, topic: str) -> None:
    asleep, successor = make(), make()
    asked = RetrainEvent.request("r1", topic, 1, "cli")

    async def scene() -> None:
        await asleep.open()
        await asleep.write(asked)
        await successor.open()
        with pytest.raises(FencedError):
            await asleep.write(asked.followed_by("accepted", 2))
        await successor.write(asked.followed_by("suppressed", 2))
        assert await told(successor) == ["r1", "r1.suppressed"]

    play(scene, asleep, successor)


def test_unreadable_and_foreign_records_are_told_apart(
    make: Make, topic: str, kafka_bootstrap: str, registry: RegistryClient
) -> None:
    log = make()
    schema = schema_text("retrain_event.avsc")
    schema_id = registry.register(f"{topic}-value", schema)
    foreign = RetrainEvent.request("r1", "another", 1, "cli")
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "compression.type": "lz4"})
    for value in (b"junk", None, encode_one(schema, schema_id, foreign.to_dict())):
        producer.produce(topic, value, b"k", 0)
    assert producer.flush(20) == 0

    async def scene() -> None:
        assert await told(log) == ["DecodeError", "DecodeError", "RuleViolation"]

    play(scene)


def test_open_transaction_of_another_is_waited_for(
    make: Make, topic: str, kafka_bootstrap: str, registry: RegistryClient
) -> None:
    schema = schema_text("retrain_event.avsc")
    schema_id = registry.register(f"{topic}-value", schema)
    asked = RetrainEvent.request("r1", topic, 1, "cli")
    job = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": f"{topic}-job"})
    job.init_transactions(20)
    job.begin_transaction()
    job.produce(topic, encode_one(schema, schema_id, asked.to_dict()), b"k", 0)
    assert job.flush(20) == 0
    log, patient = make(timeout_s=1.0), make()

    async def scene() -> None:
        with pytest.raises(BrokerUnavailable, match="not at its end"):
            await told(log)
        reading = asyncio.create_task(told(patient))
        await asyncio.to_thread(job.commit_transaction, 20)
        assert await reading == ["r1"]

    play(scene)


def test_aborted_events_are_passed_at_the_end_too(
    make: Make, topic: str, kafka_bootstrap: str, registry: RegistryClient
) -> None:
    schema = schema_text("retrain_event.avsc")
    schema_id = registry.register(f"{topic}-value", schema)
    job = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": f"{topic}-job"})
    job.init_transactions(20)
    for number in range(3):
        asked = RetrainEvent.request(f"r{number}", topic, 1, "cli")
        job.begin_transaction()
        job.produce(topic, encode_one(schema, schema_id, asked.to_dict()), b"k", 0)
        assert job.flush(20) == 0
        if number == 0:
            job.commit_transaction(20)
        else:
            job.abort_transaction(20)
    log, other = make(), make(timeout_s=5.0)

    async def scene() -> None:
        assert await told(log) == ["r0"]
        assert await told(log) == []
        await log.open()
        await log.write(RetrainEvent.request("r9", topic, 1, "cli"))
        assert await told(log) == ["r9"]
        assert await told(other) == ["r0", "r9"]

    play(scene, log)


def test_topic_that_is_not_there_is_an_outage(make: Make) -> None:
    log = make(f"absent-{uuid.uuid4().hex[:8]}", 5.0)

    async def scene() -> None:
        with pytest.raises(BrokerUnavailable, match="no such topic"):
            await told(log)

    play(scene)
