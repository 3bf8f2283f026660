"""Where records that were never read are gone the loop stops and says which: it skips nothing."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Uuid
from harness.loop import IN, OUT, MakeRig, Rig
from penstock_schemas.errors import DataGap


def second_later(rig: Rig, times: int = 1) -> None:
    for _ in range(times):
        rig.processor._duties_due_at = 0.0
        rig.processor._identity._ask_at = 0.0
        rig.turn()


def test_a_group_without_offsets_begins_at_the_start(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed(b"a", b"b")
    rig.started()
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b"]


def test_a_partition_is_read_from_where_the_group_is_and_not_before_that_is_known(
    make_rig: MakeRig,
) -> None:
    rig = make_rig()
    rig.feed(b"a", b"b")
    rig.broker.offsets[(IN, 0)] = 1
    rig.broker.fail("committed", KafkaError(KafkaError._TIMED_OUT))
    rig.consumer.assign(0)
    rig.turn()
    assert rig.consumer.paused == {0}
    rig.turn(3)
    assert rig.broker.values(OUT) == [b"b"]


def test_retention_past_the_committed_offset_is_a_gap_with_its_range(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed(*[b"x"] * 10)
    rig.broker.offsets[(IN, 0)] = 3
    rig.broker.starts[0] = 7
    rig.consumer.assign(0)
    with pytest.raises(DataGap, match=r"0: \[3, 7\): the log starts at 7") as raised:
        rig.processor.run()
    assert raised.value.gaps == {0: (3, 7)}
    assert rig.broker.offsets == {(IN, 0): 3}
    assert rig.broker.values(OUT) == []


def test_an_offset_beyond_the_end_is_a_gap(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed(b"x")
    rig.broker.offsets[(IN, 0)] = 9
    assert rig.processor._consumer.data_gap(0, 9).gaps == {0: (9, None)}


def test_a_topic_made_again_under_the_loop_is_a_gap_though_the_offsets_fit(
    make_rig: MakeRig,
) -> None:
    rig = make_rig().started()
    rig.feed(b"a", b"b")
    second_later(rig, 3)
    rig.broker.topic_id = Uuid(0, 2)
    with pytest.raises(DataGap, match="deleted and made again") as raised:
        second_later(rig, 3)
    assert raised.value.gaps == {0: (2, None)}


def test_a_topic_whose_id_cannot_be_had_is_no_other_topic(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    second_later(rig, 3)
    rig.broker.topic_failure = KafkaError(KafkaError._TIMED_OUT)
    second_later(rig, 3)
    rig.broker.topic_failure = None
    second_later(rig, 3)
    rig.broker.topic_id = Uuid(0, 2)
    with pytest.raises(DataGap):
        second_later(rig, 3)
