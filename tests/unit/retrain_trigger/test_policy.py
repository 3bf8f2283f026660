from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from penstock_pipelines.model import Retrain
from penstock_retrain_trigger.policy import Decision, decide
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import Ledger

HOUR_MS = 3_600_000
NOW = 1_000 * HOUR_MS
POLICY = Retrain(cooldown_s=3_600, max_per_day=3)


def asked(request_id: str = "new", source: str = "drift") -> RetrainEvent:
    return RetrainEvent.request(request_id, "p", NOW, source)


def history(*accepted: tuple[int, str], end: str | None = "finished") -> Ledger:
    """Return a ledger of requests accepted at these times."""
    ledger, offset = Ledger(), 0
    for number, (at, source) in enumerate(accepted):
        request = RetrainEvent.request(f"old{number}", "p", at, source)
        steps = [request, request.followed_by("accepted", at)]
        if end is not None:
            steps.append(request.followed_by(end, at + 1))
        for event in steps:
            ledger.fold(event, offset)
            offset += 1
    return ledger


def test_first_request_is_accepted() -> None:
    assert decide(asked(), Ledger(), POLICY, NOW) == Decision()
    assert Decision().state == "accepted"


@pytest.mark.parametrize("source", ["drift", "cli", "rest", "schedule"])
def test_one_in_flight_stops_every_other(source: str) -> None:
    ledger = history((NOW - 24 * HOUR_MS, "drift"), end=None)
    decision = decide(asked(source=source), ledger, POLICY, NOW)
    assert decision.state == "suppressed"
    assert decision.reason == "in flight: request old0 is accepted"


@pytest.mark.parametrize("end", ["finished", "failed", "cancelled"])
def test_an_end_frees_the_slot(end: str) -> None:
    ledger = history((NOW - 2 * HOUR_MS, "drift"), end=end)
    assert decide(asked(), ledger, POLICY, NOW).state == "accepted"


def test_cooldown_tells_the_seconds_left() -> None:
    ledger = history((NOW - HOUR_MS // 4, "drift"))
    assert decide(asked(), ledger, POLICY, NOW).reason == "cooldown: 2700 s left of 3600 s"
    assert decide(asked(), ledger, POLICY, NOW + 3 * HOUR_MS // 4).state == "accepted"


def test_request_by_hand_neither_waits_for_the_cooldown_nor_starts_one() -> None:
    by_drift = history((NOW - 1, "drift"))
    assert decide(asked(source="cli"), by_drift, POLICY, NOW).state == "accepted"
    by_hand = history((NOW - 1, "cli"))
    assert decide(asked(source="drift"), by_hand, POLICY, NOW).state == "accepted"


def test_clock_set_back_does_not_lengthen_the_cooldown() -> None:
    ledger = history((NOW + 10 * HOUR_MS, "drift"))
    assert decide(asked(), ledger, POLICY, NOW).reason == "cooldown: 3600 s left of 3600 s"


@pytest.mark.parametrize("source", ["drift", "cli"])
def test_budget_holds_for_24_hours_and_by_hand_too(source: str) -> None:
    times = [NOW - 24 * HOUR_MS + 1, NOW - 20 * HOUR_MS, NOW - 10 * HOUR_MS]
    ledger = history(*((at, "cli") for at in times))
    assert decide(asked(source=source), ledger, POLICY, NOW).reason == (
        "budget: 3 of 3 accepted in 24 h"
    )
    assert decide(asked(source=source), ledger, POLICY, NOW + 1).state == "accepted"


def test_switched_off_only_people_get_a_training() -> None:
    off = Retrain(enabled=False)
    assert decide(asked(), Ledger(), off, NOW).rule == "disabled"
    assert decide(asked(source="cli"), Ledger(), off, NOW).state == "accepted"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "-x", ".x", "x" * 101, "a;b", "é"])
def test_id_that_cannot_name_a_job_is_refused(name: str) -> None:
    assert decide(asked(name, "cli"), Ledger(), POLICY, NOW).rule == "invalid"


def test_storm_of_requests_gives_one_job_at_a_time_and_an_answer_to_each(
    rng: np.random.Generator,
) -> None:
    """1,000 requests within 60 s over 10 pipelines, whose jobs take some seconds."""
    shuffle = random.Random(int(rng.integers(2**31)))
    policy = Retrain(cooldown_s=10, max_per_day=4)
    times = sorted(int(t) for t in rng.integers(0, 60_000, 1_000))
    ledgers = {f"p{n}": Ledger() for n in range(10)}
    ends: dict[str, list[tuple[int, RetrainEvent]]] = {name: [] for name in ledgers}
    offsets: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    rules: Counter[str] = Counter()

    def write(name: str, event: RetrainEvent) -> None:
        ledgers[name].fold(event, offsets[name])
        offsets[name] += 1
        assert len(ledgers[name].in_flight()) <= 1

    for number, at in enumerate(times):
        name = f"p{shuffle.randrange(10)}"
        while ends[name] and ends[name][0][0] <= at:
            write(name, ends[name].pop(0)[1])
        source = shuffle.choice(["drift", "drift", "drift", "cli"])
        write(name, RetrainEvent.request(f"r{number}", name, at, source))
        for request in ledgers[name].undecided():
            event = request.requested.event
            decision = decide(event, ledgers[name], policy, at)
            decided = event.followed_by(decision.state, at, reason=decision.reason)
            write(name, decided)
            answers[event.request_id] += 1
            rules[decision.rule] += 1
            assert (decision.state == "suppressed") == bool(decision.reason)
            if decision.state == "accepted":
                over = at + shuffle.randrange(1_000, 8_000)
                ends[name].append((over, event.followed_by("finished", over)))
    assert len(answers) == 1_000
    assert set(answers.values()) == {1}
    assert set(rules) == {"", "in flight", "cooldown", "budget"}
    for ledger in ledgers.values():
        assert len(ledger.accepted()) <= policy.max_per_day
        states = Counter(request.state for request in ledger.requests.values())
        assert states["requested"] == 0
