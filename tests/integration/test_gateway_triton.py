"""The gateway over a real model server: shared calls, vanished callers, outages, overload."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from harness.clients import serving
from harness.inference import GatewayOnTriton, expected_scores, gateway_on_triton
from harness.models import MODEL_WIDTH
from harness.stack import ModelServer
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

TIMEOUT_S = 2.0
PREDICT = "/predict/tiny"
WITHIN_S = 5.0


@pytest.fixture(scope="module")
def gateway(model_server: ModelServer) -> Iterator[GatewayOnTriton]:
    with gateway_on_triton(*model_server, TIMEOUT_S) as made:
        yield made


@pytest.fixture(autouse=True)
def _answers(gateway: GatewayOnTriton) -> Iterator[None]:
    yield
    gateway.proxy.up()
    eventually(lambda: gateway.ask([np.zeros((1, MODEL_WIDTH), "f4")]), 30.0)


def random_rows(rng: np.random.Generator, callers: int) -> list[Any]:
    return [
        rng.normal(5.0, 3.0, (int(rng.integers(1, 9)), MODEL_WIDTH)).astype("f4")
        for _ in range(callers)
    ]


def test_concurrent_callers_share_calls(gateway: GatewayOnTriton, rng: np.random.Generator) -> None:
    asked = random_rows(rng, 200)
    calls, rows = gateway.settled_counts()
    answers = gateway.ask(asked)
    for row, scores in zip(asked, answers, strict=True):
        assert scores == pytest.approx(expected_scores(row), abs=1e-6), "each its own"
    calls_after, rows_after = gateway.counts()
    assert rows_after - rows == sum(map(len, asked))
    assert calls_after - calls <= 40, "of 200 callers"


def test_callers_that_vanish_leave_their_mates_unharmed(
    gateway: GatewayOnTriton, rng: np.random.Generator
) -> None:
    asked = random_rows(rng, 300)
    gone = rng.random(300) < 0.4
    waits_s = rng.uniform(0.0, 0.02, 300)

    async def vanish(task: asyncio.Task[Any], wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        task.cancel()

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(gateway.scorer.answer(None, row)) for row in asked]
        ends = [asyncio.create_task(vanish(tasks[at], waits_s[at])) for at in np.flatnonzero(gone)]
        async with asyncio.timeout(20.0):
            await asyncio.gather(*ends)
            return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    cancelled = [isinstance(answer, asyncio.CancelledError) for answer in answers]
    assert any(cancelled)
    for row, answer, left, is_cancelled in zip(asked, answers, gone, cancelled, strict=True):
        assert left or not is_cancelled
        if not is_cancelled:
            assert answer.scores == pytest.approx(expected_scores(row), abs=1e-6)


def statuses(app: Any, callers: int, seconds: float) -> tuple[Counter[int], float]:
    """Return the answers to some callers that ask all the time, and the longest wait, seconds."""
    found: Counter[int] = Counter()
    longest = 0.0

    async def caller(client: httpx.AsyncClient, end: float) -> None:
        nonlocal longest
        while time.monotonic() < end:
            start = time.monotonic()
            answer = await client.post(PREDICT, json={"features": [5.0] * MODEL_WIDTH})
            longest = max(longest, time.monotonic() - start)
            found[answer.status_code] += 1
            if answer.status_code in (429, 503):
                assert int(answer.headers["Retry-After"]) > 0
                await asyncio.sleep(0.01)

    async def run(address: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=f"http://{address}", timeout=30.0, limits=limits, trust_env=False
        ) as client:
            end = time.monotonic() + seconds
            await asyncio.gather(*(caller(client, end) for _ in range(callers)))

    with serving(app) as server:
        asyncio.run(run(server.address))
    return found, longest


def test_overload_is_answered_with_come_back(gateway: GatewayOnTriton) -> None:
    gateway.proxy.slow(0.05)
    found, _ = statuses(gateway.make_app(max_in_flight=8), callers=48, seconds=0.7)
    assert set(found) == {200, 429}
    found, _ = statuses(gateway.make_app(max_in_flight_rows=8, max_request_rows=8), 48, 0.7)
    assert set(found) == {200, 429}


def test_model_server_that_is_away_is_told_at_once(gateway: GatewayOnTriton) -> None:
    app = gateway.make_app()
    gateway.proxy.down()
    eventually(lambda: set(statuses(app, 8, 0.2)[0]) == {503}, WITHIN_S)
    found, longest = statuses(app, callers=16, seconds=1.0)
    assert set(found) == {503}
    assert longest < TIMEOUT_S, "its circuit is open: nobody waits for it"
    gateway.proxy.up()
    eventually(lambda: set(statuses(app, 8, 0.2)[0]) == {200}, 15.0)


def test_model_server_that_hangs_costs_one_deadline(gateway: GatewayOnTriton) -> None:
    app = gateway.make_app()
    gateway.proxy.hang()
    found, longest = statuses(app, callers=16, seconds=0.5)
    assert set(found) == {503}
    assert longest < 2 * TIMEOUT_S + 1.0
    found, longest = statuses(app, callers=16, seconds=1.0)
    assert set(found) == {503}
    assert longest < TIMEOUT_S
    gateway.proxy.up()
    eventually(lambda: set(statuses(app, 8, 0.2)[0]) == {200}, 20.0)


def test_model_that_was_unloaded_comes_back(gateway: GatewayOnTriton) -> None:
    """No caller meets anything but its answer or 503 meanwhile."""
    app = gateway.make_app()
    gateway.server.unload_model(gateway.served_as)
    found, _ = statuses(app, callers=4, seconds=1.0)
    assert set(found) <= {200, 503}
    eventually(lambda: set(statuses(app, 4, 0.2)[0]) == {200}, 15.0)
