"""Where records that were never read are gone the loop stops and says which: it skips nothing."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Uuid
from harness.loop import IN, OUT, FakeLoop, MakeLoop
from penstock_schemas.errors import DataGap


def second_later(loop: FakeLoop, times: int = 1) -> None:
    for _ in range(times):
        loop.processor._duties_due_at = 0.0
        loop.processor._identity._ask_at = 0.0
        loop.turn()


def test_a_group_without_offsets_begins_at_the_start(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.feed(b"a", b"b")
    loop.started()
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b"]


def test_a_partition_is_read_from_where_the_group_is_and_not_before_that_is_known(
    make_loop: MakeLoop,
) -> None:
    loop = make_loop()
    loop.feed(b"a", b"b")
    loop.broker.offsets[(IN, 0)] = 1
    loop.broker.fail("committed", KafkaError(KafkaError._TIMED_OUT))
    loop.consumer.assign(0)
    loop.turn()
    assert loop.consumer.paused == {0}
    loop.turn(3)
    assert loop.broker.values(OUT) == [b"b"]


def test_retention_past_the_committed_offset_is_a_gap_with_its_range(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.feed(*[b"x"] * 10)
    loop.broker.offsets[(IN, 0)] = 3
    loop.broker.starts[0] = 7
    loop.consumer.assign(0)
    with pytest.raises(DataGap, match=r"0: \[3, 7\): the log starts at 7") as raised:
        loop.processor.run()
    assert raised.value.gaps == {0: (3, 7)}
    assert loop.broker.offsets == {(IN, 0): 3}
    assert loop.broker.values(OUT) == []


def test_an_offset_beyond_the_end_is_a_gap(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.feed(b"x")
    loop.broker.offsets[(IN, 0)] = 9
    assert loop.processor._consumer.data_gap(0, 9).gaps == {0: (9, None)}


def test_a_topic_made_again_under_the_loop_is_a_gap_though_the_offsets_fit(
    make_loop: MakeLoop,
) -> None:
    loop = make_loop().started()
    loop.feed(b"a", b"b")
    second_later(loop, 3)
    loop.broker.topic_id = Uuid(0, 2)
    with pytest.raises(DataGap, match="deleted and made again") as raised:
        second_later(loop, 3)
    assert raised.value.gaps == {0: (2, None)}


def test_a_topic_whose_id_cannot_be_had_is_no_other_topic(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    second_later(loop, 3)
    loop.broker.topic_failure = KafkaError(KafkaError._TIMED_OUT)
    second_later(loop, 3)
    loop.broker.topic_failure = None
    second_later(loop, 3)
    loop.broker.topic_id = Uuid(0, 2)
    with pytest.raises(DataGap):
        second_later(loop, 3)
