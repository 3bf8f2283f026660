"""The checker finds every planted violation, and nothing in clean logs."""

from __future__ import annotations

import random

import pytest
from mutations import MUTATIONS, Mutation
from penstock_ledger import INVARIANTS, check
from synthetic import build
from synthetic_log import TOPICS


@pytest.mark.parametrize("seed", range(100))
def test_no_false_alarm_on_clean_log(seed: int) -> None:
    report = check(build(seed).to_store())
    assert report.ok, f"seed {seed}\n{report}"
    assert report.aborted, f"seed {seed} has no aborted transaction"
    assert report.replays, f"seed {seed} has no copy of a record"
    assert not report.unmeasured, f"seed {seed}: {report.unmeasured}"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
@pytest.mark.parametrize("seed", range(1000, 1005))
def test_planted_violation_is_found(mutation: Mutation, seed: int) -> None:
    log = build(seed, mutation.story)
    mutation.change(log, random.Random(seed))
    report = check(log.to_store())
    found = [finding.invariant for finding in report.findings]
    assert mutation.invariant in found, f"seed {seed}\n{report}"


def test_every_invariant_has_a_planted_violation() -> None:
    assert {mutation.invariant for mutation in MUTATIONS} == {one.name for one in INVARIANTS}


def test_report_names_first_twenty_offenders() -> None:
    log = build(7)
    log.records["predictions"] = []
    report = check(log.to_store())
    loss = next(f for f in report.findings if f.invariant == "I1 no loss")
    assert loss.count > 20
    assert len(loss.offenders) == 20
    assert f"… and {loss.count - 20} more" in str(report)


def test_events_before_the_window_are_ignored() -> None:
    log = build(8)
    partition = 0
    log.records["predictions"] = [r for r in log.records["predictions"] if r.partition != partition]
    log.records["features_dlq"] = [
        r for r in log.records["features_dlq"] if r.partition != partition
    ]
    log.counters.clear()
    log.live.clear()
    log.start[partition] = log.end["events", partition]
    assert check(log.to_store()).ok


def test_dead_letter_topics_follow_their_source() -> None:
    assert TOPICS.name("features_dlq") == "fraud.features.v1.dlq"
    assert TOPICS.group("ingest") == "penstock-ingest-fraud"
