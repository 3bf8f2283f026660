"""Routing states as spans of time."""

from __future__ import annotations

from dataclasses import replace

from penstock_ledger.reigns import EVER, Tolerance, judged, reigns
from rollouts import STEP_MS, rollout

NONE = Tolerance(clock_s=0.0, apply_s=0.0)
SOME = Tolerance(clock_s=1.0, apply_s=10.0)
STATES = rollout("promoted", 0)


def spans(version: str, tolerance: Tolerance = NONE) -> list[tuple[str | None, int, int]]:
    return [
        (r.variant, r.since_ms, r.until_ms)
        for r in reigns(STATES, tolerance)
        if r.version == version
    ]


def test_consecutive_revisions_are_one_reign() -> None:
    assert spans("1") == [("champion", 0, 3 * STEP_MS), (None, 3 * STEP_MS, 4 * STEP_MS)]


def test_a_canary_that_is_promoted_reigns_twice_and_then_for_ever() -> None:
    assert sorted(spans("2")) == [
        ("canary", STEP_MS, 3 * STEP_MS),
        ("champion", 3 * STEP_MS, EVER),
    ]


def test_tolerance_widens_both_ends() -> None:
    (champion, _) = spans("1", SOME)
    assert champion == ("champion", -1_000, 3 * STEP_MS + 11_000)


def test_a_retired_version_has_no_reign() -> None:
    last = rollout("rejected", 0)[-1:]
    assert [r.version for r in reigns(last, NONE)] == ["1"]


def test_the_whole_history_is_judged_from_the_beginning_of_time() -> None:
    assert judged(STATES, SOME) == [(0, EVER)]


def test_what_compaction_has_taken_is_not_judged() -> None:
    since = STATES[3].updated_at + SOME.apply_ms
    assert judged(STATES[3:], SOME) == [(since, EVER)]


def test_a_gap_is_not_judged() -> None:
    first = (0, STATES[1].updated_at - SOME.clock_ms)
    last = (STATES[4].updated_at + SOME.apply_ms, EVER)
    assert judged([*STATES[:2], STATES[4]], SOME) == [first, last]


def test_nothing_is_judged_without_routing_states() -> None:
    assert judged([], SOME) == []
    assert list(reigns([], SOME)) == []


def test_a_version_with_weight_is_champion_unless_it_is_a_canary() -> None:
    state = STATES[1]
    odd = replace(state.versions[0], state="shadow", weight=0)
    assert [r.version for r in reigns([replace(state, versions=(odd,))], NONE)] == []
