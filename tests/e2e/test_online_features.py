"""It really is Feast: what another program writes is in the entity's next FeatureVector."""

from __future__ import annotations

import math
from typing import Any

import pytest
from harness.clients import ProducerApp, Published, card_rows
from harness.judges import LedgerRun
from harness.stack import Stack
from harness.waiting import eventually
from penstock_features.online import open_store

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

VIEW = "account_profile"
FIELDS = ("credit_limit", "account_age_days", "home_risk", "typical_amount", "chargebacks")


def read_profile(store: Any, account: str) -> dict[str, float]:
    answer = store.get_online_features(
        features=[f"{VIEW}:{field}" for field in FIELDS], entity_rows=[{"account_id": account}]
    ).to_dict()
    return {field: answer[field][0] for field in FIELDS}


def write_profile(store: Any, account: str, profile: dict[str, float]) -> None:
    import pandas as pd

    row = {"account_id": account, "event_timestamp": pd.Timestamp.now(tz="UTC"), **profile}
    store.write_to_online_store(VIEW, pd.DataFrame([row]))


def test_value_changed_from_outside_is_in_the_next_vector(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int, feature_names: list[str]
) -> None:
    store = open_store(stack.feast_dir / "fraud")
    row, _ = next(iter(card_rows(seed, 1)))
    account, at = row["account_id"], feature_names.index("credit_limit_log")
    old = read_profile(store, account)
    limit = 7_654_321.0

    def publish(number: int) -> float:
        event_id = f"feast-{seed}-{number}"
        cards.publish([(row | {"event_id": event_id}, None)], Published())
        fraud.drain(60)
        vectors = {v["event_id"]: v["features"] for v in fraud.decoded("features")}
        return float(vectors[event_id][at])

    assert publish(1) == pytest.approx(math.log1p(old["credit_limit"]), rel=1e-5)
    write_profile(store, account, old | {"credit_limit": limit})
    try:
        assert publish(2) == pytest.approx(math.log1p(limit), rel=1e-5)
    finally:
        write_profile(store, account, old)
    assert publish(3) == pytest.approx(math.log1p(old["credit_limit"]), rel=1e-5)


def test_written_back_aggregates_can_be_read_by_others(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    store = open_store(stack.feast_dir / "fraud")
    row, _ = next(iter(card_rows(seed, 1)))
    account = row["account_id"]

    def count_24h() -> float:
        answer = store.get_online_features(
            features=["account_activity:count_24h"], entity_rows=[{"account_id": account}]
        ).to_dict()
        return float(answer["count_24h"][0] or 0.0)

    before = count_24h()
    events = [(row | {"event_id": f"back-{seed}-{n}"}, None) for n in range(40)]
    cards.publish(events, Published())
    fraud.drain(60)
    eventually(lambda: count_24h() > before, 30, "the online store has the new count")
