"""The loop on a real broker: exactly once through kills, zombies and rebalances."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.kills import LOOP_KILLS
from harness.loop import MakeGroup
from harness.waiting import eventually
from penstock_schemas import headers

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

EVENTS = 3_000
LEAVES_ABORTED_OUTPUTS = {"mid_produce", "after_flush", "after_offsets"}
"""Places where outputs have reached the broker for certain and cannot be committed."""


@pytest.mark.faults
def test_a_kill_at_each_fail_point_loses_and_doubles_nothing(make_group: MakeGroup) -> None:
    groups = {name: make_group() for name in LOOP_KILLS}

    def run(name: str) -> None:
        group = groups[name]
        group.send(EVENTS)
        first = group.start(f"{name}:3")
        assert first.wait(60) == -signal.SIGKILL, name
        second = group.start()
        group.await_end(90)
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0, name
        group.assert_exactly_once()
        if name in LEAVES_ABORTED_OUTPUTS:
            assert group.aborted() > 0, f"{name} missed"

    with ThreadPoolExecutor(len(groups)) as pool:
        for done in [pool.submit(run, name) for name in groups]:
            done.result()


@pytest.mark.faults
def test_a_zombie_commits_nothing_after_its_partitions_were_taken(make_group: MakeGroup) -> None:
    group = make_group()
    zombie = group.start(commit_interval_s=1.0)
    group.send(EVENTS)
    eventually(lambda: sum(group.committed().values()) > 0, 30, "the zombie has worked")
    group.send(EVENTS, first=EVENTS)
    zombie.send_signal(signal.SIGSTOP)
    group.send(EVENTS, first=2 * EVENTS)
    heir = group.start()
    group.await_end(90)
    zombie.send_signal(signal.SIGCONT)
    group.send(EVENTS, first=3 * EVENTS)
    group.await_end(60)
    for worker in (zombie, heir):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    group.assert_exactly_once()


def test_members_come_and_go_without_loss_or_duplicates(make_group: MakeGroup) -> None:
    group = make_group()
    first = group.start()
    sent = 0

    def keep_sending(until: Callable[[], bool]) -> None:
        def send() -> bool:
            nonlocal sent
            group.send(200, first=sent)
            sent += 200
            return until()

        eventually(send, 60, "the workers go on", every_s=0.05)

    keep_sending(lambda: sum(group.committed().values()) > 500)
    second = group.start()
    target = sent + 20_000
    keep_sending(lambda: sent >= target)
    second.send_signal(signal.SIGTERM)
    target = sent + 10_000
    keep_sending(lambda: sent >= target)
    assert second.wait(20) == 0
    group.await_end(60)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    group.assert_exactly_once()


def test_a_dead_letter_is_the_record_byte_for_byte(make_group: MakeGroup) -> None:
    group = make_group()
    odd = [("a", b"1"), ("a", b"1"), ("none", None), ("", b""), ("é", b"\xff\x00"), ("b", b"")]
    records = [
        (None, b"bad", 1, odd),
        (b"", b"bad\xff\x00", 253_402_300_799_000, []),
        (b"\xff", b"bad" * 100_000, 1_700_000_000_000, [(headers.DLQ_ATTEMPT, b"4"), *odd]),
    ]
    for key, value, timestamp_ms, pairs in records:
        group._producer.produce(group.topic, value, key, 1, timestamp=timestamp_ms, headers=pairs)
        group.sent.append((1, value))
    assert group._producer.flush(20) == 0
    worker = group.start()
    eventually(lambda: len(group.read(group.dlq)) == len(records), 30, "all are dead letters")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    for offset, (letter, (key, value, timestamp_ms, pairs)) in enumerate(
        zip(group.read(group.dlq), records, strict=True)
    ):
        assert (letter.key(), letter.value(), letter.partition()) == (key, value, 1)
        assert letter.timestamp()[1] == timestamp_ms
        found = letter.headers() or []
        ours = {h: v for h, v in found if h in headers.DEAD_LETTER_HEADERS}
        assert [h for h in found if h[0] not in ours] == [
            h for h in pairs if h[0] not in headers.DEAD_LETTER_HEADERS
        ]
        assert ours[headers.DLQ_ATTEMPT] == (b"5" if (headers.DLQ_ATTEMPT, b"4") in pairs else b"1")
        assert ours[headers.ERROR_OFFSET] == b"%d" % offset
