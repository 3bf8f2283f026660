from __future__ import annotations

import math

import pytest
from penstock_retrain_trigger.metrics import TriggerFamilies, TriggerMetrics
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import Ledger
from prometheus_client import CollectorRegistry


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"penstock_retrain_{name}", {"pipeline": "p", **labels})


def test_requests_are_counted_by_state_and_class_of_reason(registry: CollectorRegistry) -> None:
    metrics = TriggerMetrics(TriggerFamilies(registry), "p")
    asked = RetrainEvent.request("r1", "p", 0, "drift", reason="error: rose")
    metrics.count_event(asked)
    metrics.count_event(asked.followed_by("accepted", 1))
    metrics.count_event(asked.followed_by("resubmitted", 2, reason="submission 2 of 3: lost"))
    metrics.count_event(asked.followed_by("suppressed", 1, reason="cooldown: 5 s left of 10 s"))
    assert value(registry, "requests_total", state="requested", reason="") == 1
    assert value(registry, "requests_total", state="accepted", reason="") == 1
    assert value(registry, "requests_total", state="suppressed", reason="cooldown") == 1
    assert value(registry, "requests_total", state="resubmitted", reason="") == 1


def test_gauges_follow_the_ledger(registry: CollectorRegistry) -> None:
    ledger = Ledger()
    TriggerMetrics(TriggerFamilies(registry), "p").observe_ledger(ledger)
    assert value(registry, "in_flight") == 0
    assert math.isnan(value(registry, "since_accepted_seconds") or 0.0)
    asked = RetrainEvent.request("r1", "p", 0, "drift")
    ledger.fold(asked, 0)
    ledger.fold(asked.followed_by("accepted", 1), 1)
    assert value(registry, "in_flight") == 1
    assert (value(registry, "since_accepted_seconds") or 0) > 1e9
    ledger.fold(asked.followed_by("finished", 2), 2)
    assert value(registry, "in_flight") == 0
