"""The consumer's notices and its start-up errors."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message
from penstock_schemas.errors import ConfigError
from penstock_streaming import consumer as consumer_module
from penstock_streaming import timing
from penstock_streaming.consumer import GroupConsumer
from penstock_streaming.testing import FakeBroker, FakeClients
from penstock_streaming.timing import RejoinTimer


@pytest.fixture
def consumer() -> GroupConsumer:
    made = GroupConsumer(FakeClients(FakeBroker()), {}, "t")
    made.subscribe()
    return made


def returning(consumer: GroupConsumer, *messages: Message) -> None:
    left = list(messages)
    fake: Any = consumer._client
    fake.poll = lambda timeout: left.pop(0) if left else None
    fake.consume = lambda n, timeout: [left.pop(0) for _ in range(min(n, len(left)))]


def notice(code: int) -> Message:
    return Message(topic="t", partition=0, offset=0, error=KafkaError(code))


def record() -> Message:
    return Message(topic="t", partition=0, offset=0, value=b"v")


def test_a_passing_notice_is_dropped_and_records_beside_it_are_kept(
    consumer: GroupConsumer,
) -> None:
    returning(consumer, record(), notice(KafkaError.UNKNOWN_TOPIC_OR_PART), record())
    assert len(consumer.poll_batch(10, 0.0)) == 2


def test_a_notice_that_no_poll_cures_is_raised(consumer: GroupConsumer) -> None:
    returning(consumer, record(), notice(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(ConfigError, match="TOPIC_AUTHORIZATION_FAILED"):
        consumer.poll_batch(10, 0.0)


def test_wrong_credentials_end_the_start(consumer: GroupConsumer) -> None:
    consumer._on_error(KafkaError(KafkaError._AUTHENTICATION))
    with pytest.raises(ConfigError, match="_AUTHENTICATION"):
        consumer.poll_batch(1, 0.0)


def test_wrong_credentials_later_are_left_to_the_client(consumer: GroupConsumer) -> None:
    fake: Any = consumer._client
    fake.assign(0)
    consumer.poll_batch(1, 0.0)
    consumer._on_error(KafkaError(KafkaError._AUTHENTICATION))
    assert consumer.poll_batch(1, 0.0) == []


def test_paused_partitions_are_resumed_once(consumer: GroupConsumer) -> None:
    fake: Any = consumer._client
    fake.assign(0, 1)
    consumer.poll_batch(1, 0.0)
    assert fake.paused == {0, 1}
    calls: list[object] = []
    fake.resume = calls.append
    consumer.resume_all()
    consumer.resume_all()
    assert len(calls) == 1


def test_a_group_that_cannot_be_left_is_left_behind(
    consumer: GroupConsumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumer_module, "LEAVE_S", 0.01)
    monkeypatch.setattr(timing, "GRACE_S", 0.01)
    stay = threading.Event()
    fake: Any = consumer._client
    fake.close = lambda: stay.wait(20)
    consumer.close()
    stay.set()
    assert "leaving the group" in caplog.text


class TestRejoin:
    """A member that the group gives nothing any more, without a word."""

    @pytest.fixture
    def clients(self) -> FakeClients:
        return FakeClients(FakeBroker())

    @pytest.fixture
    def now(self) -> list[float]:
        return [0.0]

    @pytest.fixture
    def member(self, clients: FakeClients, now: list[float]) -> GroupConsumer:
        made = GroupConsumer(clients, {}, "t")
        made._rejoin = RejoinTimer(30.0, lambda: now[0])
        made.subscribe()
        clients.consumers[0].assign(0, 1)
        made.poll_batch(1, 0.0)
        return made

    def test_it_joins_anew_and_hears_no_more_of_what_it_left(
        self, member: GroupConsumer, clients: FakeClients, now: list[float]
    ) -> None:
        left = clients.consumers[0]
        left.lose(0, 1)
        member.poll_batch(1, 0.0)
        now[0] = 29.0
        member.poll_batch(1, 0.0)
        assert not left.is_closed
        now[0] = 30.0
        member.poll_batch(1, 0.0)
        assert left.is_closed
        left.assign(0)
        left.poll(0.0)
        assert member.owned == set()
        clients.consumers[1].assign(1)
        member.poll_batch(1, 0.0)
        left.lose(1)
        left.poll(0.0)
        assert member.owned == {1}
        assert [(e.kind, e.partitions) for e in member.take_rebalances()] == [
            ("assigned", (0, 1)),
            ("lost", (0, 1)),
            ("rejoined", ()),
            ("assigned", (1,)),
        ]

    @pytest.mark.parametrize("kept", [(), (1,)])
    def test_a_member_that_the_group_has_answered_is_left_alone(
        self, member: GroupConsumer, clients: FakeClients, now: list[float], kept: tuple[int, ...]
    ) -> None:
        clients.consumers[0].revoke(*{0, 1}.difference(kept))
        clients.consumers[0].assign()
        member.poll_batch(1, 0.0)
        now[0] = 1_000.0
        member.poll_batch(1, 0.0)
        assert len(clients.consumers) == 1
