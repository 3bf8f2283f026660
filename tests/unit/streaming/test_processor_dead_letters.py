"""A partition whose records all fail is closed; nothing of it is drained, the others go on."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import KafkaError
from harness.loop import DLQ, IN, OUT, FakeLoop, MakeLoop, copied
from penstock_schemas.errors import DecodeError
from penstock_streaming.handler import HandledBatch, MessageBatch

ABORTABLE = KafkaError(KafkaError._INCONSISTENT, "delivery failed", False, False, True)


@pytest.fixture(autouse=True)
def _started_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every loop count as started at once."""
    monkeypatch.setattr("penstock_streaming.processor.STARTING_S", -1.0)


def bad_is_dead(batch: MessageBatch) -> HandledBatch:
    dead = [row for row, value in enumerate(batch.values) if value and value.startswith(b"bad")]
    return copied(batch, [(row, DecodeError("bad")) for row in dead])


@pytest.fixture
def loop(make_loop: MakeLoop) -> FakeLoop:
    """Return a loop on two partitions in which values that begin with bad are dead letters."""
    loop = make_loop()
    loop.handler.handle = bad_is_dead
    return loop.started(0, 1)


def test_a_storm_of_dead_letters_closes_its_partition_and_no_other(loop: FakeLoop) -> None:
    loop.feed(*[b"bad"] * 60, partition=1)
    loop.feed(b"a", b"b", partition=0)
    loop.turn(4)
    assert loop.broker.log[DLQ] == []
    assert loop.broker.values(OUT) == [b"a", b"b"]
    assert loop.broker.offsets == {(IN, 0): 2}
    assert loop.consumer.paused == {1}
    loop.feed(b"c", partition=0)
    loop.feed(b"d", partition=1)
    loop.turn(2)
    assert loop.broker.values(OUT) == [b"a", b"b", b"c"]


def test_a_closed_partition_is_told(loop: FakeLoop, caplog: pytest.LogCaptureFixture) -> None:
    assert loop.processor.ready
    loop.feed(*[b"bad"] * 60, partition=1)
    with caplog.at_level(logging.ERROR):
        loop.turn(4)
    assert not loop.processor.ready
    loop.retune()
    assert loop.count("penstock_dead_letter_breaker_open", partition="1") == 1
    assert loop.processor.backlog.paused
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    for fact in ("partition 1", "offset 50", "class decode", "51 dead letters", "raise limits."):
        assert fact in line


def test_a_partition_that_closes_while_the_service_starts_does_not_keep_it_from_starting(
    loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_streaming.processor.STARTING_S", 60.0)
    loop.feed(*[b"bad"] * 60, partition=1)
    loop.turn(4)
    assert loop.consumer.paused == {1}
    assert loop.processor.ready


def test_no_more_than_what_was_committed_before_the_storm_reaches_the_dead_letters(
    loop: FakeLoop,
) -> None:
    loop.feed(*[b"bad"] * 40)
    loop.turn(2)
    loop.feed(*[b"bad"] * 40)
    loop.turn(4)
    assert len(loop.broker.log[DLQ]) == 40
    assert loop.broker.offsets == {(IN, 0): 40}
    assert loop.consumer.paused == {0}


@pytest.mark.parametrize("limit", [0, 100])
def test_a_raised_limit_lets_the_partition_go_on_from_its_committed_offset(
    loop: FakeLoop, limit: int
) -> None:
    loop.feed(*[b"bad"] * 60, b"a")
    loop.turn(4)
    loop.retune(max_dead_letters_in_row=limit)
    loop.turn(3)
    assert len(loop.broker.log[DLQ]) == 60
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.broker.offsets == {(IN, 0): 61}
    assert loop.processor.ready
    loop.retune()
    assert loop.count("penstock_dead_letter_breaker_open", partition="0") == 0


def test_a_lowered_limit_opens_nothing(loop: FakeLoop) -> None:
    loop.feed(*[b"bad"] * 60)
    loop.turn(4)
    loop.retune(max_dead_letters_in_row=10, max_dead_letter_share=0.9)
    loop.turn(3)
    assert loop.consumer.paused == {0}


def test_a_closed_partition_that_another_member_takes_is_no_longer_ours(loop: FakeLoop) -> None:
    loop.feed(*[b"bad"] * 60, partition=1)
    loop.turn(4)
    loop.consumer.revoke(1)
    loop.turn(2)
    assert loop.processor.ready
    loop.retune()
    assert loop.count("penstock_dead_letter_breaker_open", partition="1") == 0


def test_transactions_that_abort_do_not_count_their_dead_letters_again(loop: FakeLoop) -> None:
    for _ in range(3):
        loop.broker.fail("commit_transaction", ABORTABLE)
    loop.feed(*[b"bad"] * 40)
    loop.turn(20)
    assert len(loop.broker.log[DLQ]) == 40
    assert loop.consumer.paused == set()


def test_an_outage_elsewhere_does_not_open_a_closed_partition(loop: FakeLoop) -> None:
    loop.feed(*[b"bad"] * 60, partition=1)
    loop.turn(4)
    loop.broker.fail("commit_transaction", ABORTABLE)
    loop.feed(b"a", partition=0)
    loop.turn(5)
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.consumer.paused == {1}


def test_limits_and_batches_follow_the_settings_while_the_loop_runs(loop: FakeLoop) -> None:
    loop.retune(max_batch_rows=1)
    loop.feed(b"a", b"b")
    loop.turn(3)
    assert loop.handler.named("submit") == [[b"a"], [b"b"]]
    assert loop.count("penstock_batches_closed_total", reason="full") == 2


def test_what_cannot_change_in_a_running_loop_stays(loop: FakeLoop) -> None:
    loop.retune(delivery="at_least_once", max_batch_rows=7)
    assert loop.processor._context.loop.delivery == "exactly_once"
    assert loop.processor._context.loop.max_batch_rows == 7


def test_a_batch_of_all_that_has_arrived_is_drained(loop: FakeLoop) -> None:
    loop.feed(b"a", b"b")
    loop.turn()
    assert loop.count("penstock_batches_closed_total", reason="drained") == 1
    assert loop.count("penstock_batches_closed_total", reason="full") == 0
