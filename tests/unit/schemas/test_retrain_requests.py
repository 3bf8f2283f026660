from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import Ledger

STATES = ("requested", "accepted", "suppressed", "started", "finished", "failed", "cancelled")
records = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(STATES), st.integers(0, 3)),
    max_size=30,
)


def event(request_id: str, state: str, at: int = 0, source: str = "drift") -> RetrainEvent:
    asked = RetrainEvent.request(request_id, "p", at, source)
    return asked if state == "requested" else asked.followed_by(state, at)


def folded(*events: RetrainEvent) -> Ledger:
    ledger = Ledger()
    for offset, each in enumerate(events):
        ledger.fold(each, offset)
    return ledger


def told(ledger: Ledger) -> tuple[object, ...]:
    """Return all that a ledger says."""
    return (
        {name: (r.state, r.end, r.decision, r.submissions) for name, r in ledger.requests.items()},
        [r.request_id for r in ledger.undecided()],
        [r.request_id for r in ledger.accepted()],
        [r.request_id for r in ledger.in_flight()],
    )


@given(records, st.randoms(use_true_random=False), st.integers(0, 60))
def test_any_order_and_repetition_of_events_gives_the_same_ledger(
    drawn: list[tuple[str, str, int]], rng: random.Random, repeated: int
) -> None:
    # The same id may come with other contents: then the first in the topic counts.
    topic = [(offset, event(*fields)) for offset, fields in enumerate(drawn)]
    reference = Ledger()
    for offset, each in topic:
        reference.fold(each, offset)
    shuffled = topic + [rng.choice(topic) for _ in range(repeated if topic else 0)]
    rng.shuffle(shuffled)
    other = Ledger()
    for offset, each in shuffled:
        other.fold(each, offset)
    assert told(other) == told(reference)
    assert other == reference


@given(records)
def test_new_ids_are_told_once(drawn: list[tuple[str, str, int]]) -> None:
    ledger = Ledger()
    events = [event(*fields) for fields in drawn]
    new = sum(ledger.fold(each, offset) for offset, each in enumerate(events * 2))
    assert new == len({e.event_id for e in events}) == len(list(ledger.events()))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["requested"], "requested"),
        (["requested", "accepted"], "accepted"),
        (["requested", "accepted", "started"], "started"),
        (["requested", "accepted", "started", "finished"], "finished"),
        (["requested", "accepted", "cancelled", "finished"], "cancelled"),
        (["requested", "suppressed"], "suppressed"),
        (["requested", "suppressed", "cancelled"], "suppressed"),
        (["requested", "cancelled"], "cancelled"),
        (["requested", "suppressed", "accepted"], "suppressed"),
    ],
)
def test_state_is_what_the_first_events_say(states: list[str], expected: str) -> None:
    ledger = folded(*(event("r", state) for state in states))
    assert ledger.requests["r"].state == expected


def test_in_flight_from_acceptance_to_the_end() -> None:
    ledger = Ledger()
    seen = []
    for offset, state in enumerate(("requested", "accepted", "started", "failed")):
        ledger.fold(event("r", state), offset)
        seen.append(bool(ledger.in_flight()))
    assert seen == [False, True, True, False]


def test_request_cancelled_before_its_decision_needs_none() -> None:
    assert not folded(event("r", "requested"), event("r", "cancelled")).undecided()


def test_undecided_come_in_the_order_of_the_topic() -> None:
    ledger = Ledger()
    for name, offset in (("late", 9), ("early", 2), ("middle", 5)):
        ledger.fold(event(name, "requested"), offset)
    assert [r.request_id for r in ledger.undecided()] == ["early", "middle", "late"]


def test_each_ordered_submission_counts() -> None:
    accepted = event("r", "accepted")
    second = replace(event("r", "resubmitted"), event_id="r.resubmitted.2")
    ledger = folded(event("r", "requested"), accepted, second, second)
    assert ledger.requests["r"].submissions == 2
    assert ledger.in_flight()[0].decision.event == accepted
