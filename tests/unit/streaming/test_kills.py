"""A kill is one named place and one visit, and each place is where its name says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from harness import kills
from harness.kills import JOB_KILLS, LOOP_KILLS, KillSwitch, kill_at, kill_job, wrapper
from harness.loop import IN, OUT, FakeLoop, MakeLoop, Stateful
from penstock_schemas.errors import ConfigError
from penstock_service.fail_points import FailPoints
from penstock_streaming.testing import FakeBroker, FakeClients

REPOSITORY = Path(__file__).parents[3]


class Killed(BaseException):
    """What a test sees in place of the end of its process."""


@pytest.fixture(autouse=True)
def _raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill() -> None:
        raise Killed

    monkeypatch.setattr(kills, "_kill", kill)
    monkeypatch.setattr(KillSwitch, "during", KillSwitch.reach)


def places_in(*files: Path) -> set[str]:
    text = "".join(file.read_text() for file in files)
    return set(re.findall(r'\.(?:reach|during)\("(\w+)"\)', text))


def test_every_place_of_the_loop_is_in_the_wrapper_and_every_one_there_is_known() -> None:
    assert places_in(Path(kills.__file__)) == set(LOOP_KILLS)


def test_every_place_of_a_job_is_in_the_product_and_every_one_there_is_known() -> None:
    files = [f for part in ("libs", "services") for f in (REPOSITORY / part).rglob("*.py")]
    assert places_in(*files) == set(JOB_KILLS)


@pytest.mark.parametrize("text", ["nowhere", "after_poll:x", ":3", "after_poll:-1", ""])
def test_a_wrong_name_or_count_is_refused_by_name(make_loop: MakeLoop, text: str) -> None:
    with pytest.raises(ConfigError, match=f"kill at '{text}'"):
        make_loop(wrapper=wrapper(text))


def test_only_the_named_place_and_visit_kill() -> None:
    switch = KillSwitch("before_offsets", 2)
    switch.reach("after_poll")
    switch.reach("before_offsets")
    with pytest.raises(Killed):
        switch.reach("before_offsets")
    switch.reach("before_offsets")


def test_fail_points_of_the_product_do_nothing() -> None:
    for name in JOB_KILLS:
        FailPoints().reach(name)
        FailPoints().during(name)
    assert kill_job("") == {}


def killed(make_loop: MakeLoop, place: str, **settings: object) -> FakeLoop:
    """Return the loop that two records have been fed to, after it has died at a place."""
    loop = make_loop(Stateful(), wrapper=wrapper(place), **settings)
    loop.started()
    loop.broker.calls.clear()
    loop.handler.events.clear()
    loop.feed(b"a", b"b")
    with pytest.raises(Killed):
        loop.turn(3)
    return loop


@pytest.mark.parametrize(
    ("place", "submitted", "calls"),
    [
        ("after_poll", 0, []),
        ("after_submit", 1, []),
        ("after_result", 1, []),
        ("mid_produce", 1, ["begin_transaction", "produce", "flush"]),
        ("before_offsets", 1, ["begin_transaction", "produce", "produce"]),
        ("after_flush", 1, ["begin_transaction", *["produce"] * 3, "flush", "flush"]),
        ("after_offsets", 1, [*["produce"] * 3, "flush", "send_offsets_to_transaction"]),
        ("during_commit", 1, [*["produce"] * 3, "flush", "send_offsets_to_transaction"]),
        ("after_commit", 1, ["flush", "send_offsets_to_transaction", "commit_transaction"]),
    ],
)
def test_a_loop_in_transactions_dies_between_the_calls_that_a_place_lies_between(
    make_loop: MakeLoop, place: str, submitted: int, calls: list[str]
) -> None:
    loop = killed(make_loop, place)
    assert len(loop.handler.named("submit")) == submitted
    found = [call for call in loop.broker.calls if call not in ("poll", "committed")]
    assert found[-len(calls) :] == calls if calls else found == []
    is_committed = place == "after_commit"
    assert loop.broker.values(OUT) == ([b"a", b"b"] if is_committed else [])
    assert loop.broker.offsets == ({(IN, 0): 2} if is_committed else {})
    assert len(loop.handler.named("changelog")) == (LOOP_KILLS.index(place) > 4)


@pytest.mark.parametrize("place", LOOP_KILLS)
def test_a_loop_without_transactions_dies_at_each_place_too(
    make_loop: MakeLoop, place: str
) -> None:
    loop = killed(make_loop, place, delivery="at_least_once")
    has_flushed = LOOP_KILLS.index(place) >= LOOP_KILLS.index("after_flush")
    kept = {"mid_produce": [b"a"]}.get(place, [b"a", b"b"] if has_flushed else [])
    assert loop.broker.values(OUT) == kept
    assert loop.broker.offsets == ({(IN, 0): 2} if place == "after_commit" else {})


def test_positions_that_are_committed_alone_are_no_visit(make_loop: MakeLoop) -> None:
    handler = Stateful()
    _, wrapped = kill_at("after_commit", FakeClients(FakeBroker()), handler)  # type: ignore[arg-type]
    wrapped.committed()
    assert handler.named("committed") == [None]


def test_a_rebalance_is_told_by_the_client_that_the_loop_knows() -> None:
    clients, _ = kill_at("after_poll:9", FakeClients(FakeBroker()), Stateful())  # type: ignore[arg-type]
    consumer = clients.consumer({})
    told: list[object] = []

    def on_assign(client: object, partitions: list[TopicPartition]) -> None:
        told.append(client)

    consumer.subscribe(["t"], on_assign=on_assign, on_revoke=on_assign, on_lost=on_assign)
    consumer.assign(0)  # type: ignore[attr-defined]
    consumer.poll(0.0)
    assert told == [consumer]
