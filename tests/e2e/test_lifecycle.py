"""The stack comes back: dead components by themselves, a dead supervisor by `penstock up`."""

from __future__ import annotations

import time

import pytest
from harness.clients import ProducerApp, Published, card_rows
from harness.judges import LedgerRun
from harness.stack import Stack, penstock
from harness.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RESTART_WITHIN_S = 60.0


def predict_some(fraud: LedgerRun, cards: ProducerApp, seed: int) -> None:
    """Assert that 1,000 more events become predictions, and that the window is still clean."""
    before = fraud.count("predictions")
    published = cards.publish(card_rows(seed, 1_000), Published())
    fraud.drain(90)
    report = fraud.report()
    assert report.ok, str(report)
    assert fraud.count("predictions") == before + published.events


@pytest.mark.parametrize(
    "component",
    [
        "kafka",
        "ingest",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("registry", "triton", "ray", "mlflow", "drift", "retrain-trigger")
        ),
    ],
)
def test_dead_component_is_started_again(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int, component: str
) -> None:
    dead = stack.kill(component)
    start = time.monotonic()

    def back() -> bool:
        found = stack.component(component)
        return found["state"] == "ready" and not set(found["pids"]) & set(dead)

    eventually(back, RESTART_WITHIN_S, f"{component} is back")
    print(f"{component} was back after {time.monotonic() - start:.1f} s")  # noqa: T201
    eventually(lambda: not stack.unwell(), RESTART_WITHIN_S, "and with it the others")
    predict_some(fraud, cards, seed)


def test_second_up_takes_over_after_the_supervisor_was_killed(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    kafka = stack.pids("kafka")
    old = stack.supervisor()
    old.kill()
    old.wait(10)
    predict_some(fraud, cards, seed)  # the components need no supervisor to work
    penstock("up", "--detach", "--data-dir", str(stack.data_dir), timeout_s=120)
    assert stack.supervisor().pid != old.pid
    # A component may still be mending what an earlier fault has done to it.
    eventually(lambda: not stack.unwell(), RESTART_WITHIN_S, "every component is ready")
    assert stack.pids("kafka") == kafka, "what lived was taken over, not started again"
    predict_some(fraud, cards, seed + 1)
    dead = stack.kill("mlflow")
    eventually(
        lambda: not set(stack.pids("mlflow")) & set(dead) and not stack.unwell(),
        RESTART_WITHIN_S,
        "the new supervisor watches too",
    )


def test_status_answers_within_two_seconds(stack: Stack) -> None:
    found = stack.status()
    assert {"kafka", "registry", "triton", "ray", "gateway", "mlflow", "ingest", "inference"} <= {
        c["name"] for c in found["components"]
    }
    assert {p["name"] for p in found["pipelines"]} >= {"fraud"}

    def is_quick() -> bool:
        start = time.monotonic()
        stack.status()
        return time.monotonic() - start < 3.0  # two of its own, and a busy machine

    eventually(is_quick, 60, "a status within its time")
