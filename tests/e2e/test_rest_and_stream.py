"""REST and stream give the same answer to the same event: one code, one state."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from harness.clients import ProducerApp, Published, card_rows
from harness.judges import LedgerRun
from harness.stack import Stack
from harness.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

WRITE_BACK_S = 60.0


def test_event_is_scored_alike_with_and_without_history(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    row, _ = next(iter(card_rows(seed, 1)))
    account = f"rest-{seed}"

    def event(number: int) -> dict[str, Any]:
        moved = row["event_time"] + 60_000 * number
        return row | {
            "event_id": f"rest-{seed}-{number}",
            "account_id": account,
            "event_time": moved,
            "amount": 10.0 + 7.0 * number,
        }

    def by_rest(number: int) -> float:
        answer = requests.post(f"{stack.gateway_url}/predict/fraud", json=event(number), timeout=30)
        assert answer.status_code == 200, answer.text
        return float(answer.json()["scores"][0])

    def by_stream(number: int) -> float:
        cards.publish([(event(number), None)], Published())
        fraud.drain(60)
        scores = {p["event_id"]: p["scores"][0] for p in fraud.decoded("predictions")}
        return float(scores[event(number)["event_id"]])

    without = by_rest(0)
    assert by_stream(0) == pytest.approx(without, rel=1e-4)
    for number in (1, 2):
        before = by_rest(3)
        by_stream(number)
        eventually(lambda: by_rest(3) != before, WRITE_BACK_S, "the state is written back")  # noqa: B023
    with_history = by_rest(3)
    assert with_history != pytest.approx(without, rel=1e-3)
    assert by_stream(3) == pytest.approx(with_history, rel=1e-4)
