"""Concurrent callers share calls, and nobody pays for a neighbour."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np
import pytest
from harness.inference import WIDTH, FakeScorer, mean_score
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_server import INPUT, Matrix, PendingScores, ServedModel, Tensors
from penstock_inference.rest.batching import AdaptiveBatcher
from penstock_inference.scoring import DataPlane, ServingState
from penstock_schemas.errors import (
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    ShapeMismatch,
)
from prometheus_client import CollectorRegistry

MODEL = ServedModel("tiny__1", WIDTH, max_rows=8)
POISON = 666.0
T = TypeVar("T")


class HeldServer(FakeScorer):
    """A model server whose calls are answered when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[Matrix, Future[Matrix], float]] = []
        self.names: list[str] = []
        self.error: PenstockError = ModelRejected("poison")

    def start_inference(
        self, model: ServedModel, inputs: Tensors, timeout_s: float
    ) -> PendingScores:
        self.held.append((inputs[INPUT], Future(), timeout_s))
        self.names.append(model.name)
        return PendingScores(model, [self.held[-1][1]])

    def answer(self, call: int, how: Matrix | Exception | None = None) -> None:
        matrix, future, _ = self.held[call]
        if isinstance(how, Exception):
            future.set_exception(how)
        elif (matrix == POISON).any():
            future.set_exception(self.error)
        else:
            future.set_result(mean_score(matrix) if how is None else how)

    @property
    def rows(self) -> list[int]:
        return [len(matrix) for matrix, _, _ in self.held]


@pytest.fixture
def server() -> HeldServer:
    return HeldServer()


def row(value: float, rows: int = 1) -> Matrix:
    return np.full((rows, WIDTH), value, dtype=np.float32)


def batcher(server: HeldServer, calls: int) -> AdaptiveBatcher:
    metrics = InferenceMetrics(InferenceFamilies(CollectorRegistry()), "tiny")
    return AdaptiveBatcher(DataPlane(server, ServingState("tiny", metrics), 5.0), calls)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(test, 10.0))


def ask(
    batches: AdaptiveBatcher, *rows: Matrix, timeout_s: float = 5.0
) -> list[asyncio.Task[Matrix]]:
    return [asyncio.create_task(batches.scores(MODEL, each, timeout_s)) for each in rows]


def test_what_arrives_meanwhile_goes_as_one_call(server: HeldServer) -> None:
    async def test() -> None:
        batches = batcher(server, calls=2)
        callers = ask(batches, *(row(i) for i in range(7)))
        await settle()
        assert server.rows == [1, 1], "a lone caller waits for nobody"
        server.answer(0)
        await settle()
        assert server.rows == [1, 1, 5]
        server.answer(2)
        server.answer(1)
        scores = await asyncio.gather(*callers)
        assert [float(each[0, 0]) for each in scores] == [0, 1, 2, 3, 4, 5, 6]
        assert not batches._queues, "nothing is kept of a model that nobody asks for"

    run(test())


def test_call_has_no_more_rows_than_the_model_takes(server: HeldServer) -> None:
    async def test() -> None:
        batches = batcher(server, calls=1)
        callers = ask(batches, row(0), row(1, 5), row(2, 3), row(3, 1), row(4, 20))
        for call in range(4):
            await settle()
            server.answer(call)
        scores = await asyncio.gather(*callers)
        assert server.rows == [1, 8, 1, 20], "one caller's own are cut by the connection"
        assert [len(each) for each in scores] == [1, 5, 3, 1, 20]
        assert [float(each.mean()) for each in scores] == [0, 1, 2, 3, 4]

    run(test())


@pytest.mark.parametrize("gone", range(3))
def test_caller_that_goes_away_takes_nobody_with_it(server: HeldServer, gone: int) -> None:
    """Neither when its call is on its way nor while it waits."""

    async def test() -> None:
        batches = batcher(server, calls=1)
        callers = ask(batches, *(row(i) for i in range(7)))
        await settle()
        server.answer(0)
        await settle()
        callers[1 + gone].cancel()  # on its way with 5 others
        (waiting, last) = ask(batches, row(7), row(8))
        await settle()
        waiting.cancel()
        await settle()
        server.answer(1)
        await settle()
        assert server.rows == [1, 6, 1], "who went away while it waited is not asked for"
        server.answer(2)
        found = await asyncio.gather(*callers, last, return_exceptions=True)
        assert isinstance(found.pop(1 + gone), asyncio.CancelledError)
        expected = [float(i) for i in range(9) if i not in (1 + gone, 7)]
        assert [float(scores[0, 0]) for scores in found] == expected  # type: ignore[index]

    run(test())


@pytest.mark.parametrize("error", [ModelRejected("boom"), ShapeMismatch("wrong")])
@pytest.mark.parametrize("guilty", [0, 3, 6])
def test_only_the_caller_at_fault_fails(
    server: HeldServer, error: PenstockError, guilty: int
) -> None:
    server.error = error

    async def test() -> None:
        batches = batcher(server, calls=1)
        (first,) = ask(batches, row(0))
        await settle()
        callers = ask(batches, *(row(POISON if i == guilty else i) for i in range(7)))
        await settle()
        call = 0
        while not all(caller.done() for caller in (first, *callers)):
            server.answer(call)
            call += 1
            await settle()
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert found.pop(guilty) is error
        expected = [float(i) for i in range(7) if i != guilty]
        assert [float(scores[0, 0]) for scores in found] == expected  # type: ignore[index]

    run(test())


def test_outage_is_told_to_all_and_the_next_are_served(server: HeldServer) -> None:
    async def test() -> None:
        batches = batcher(server, calls=1)
        callers = ask(batches, row(0), row(1), row(2))
        await settle()
        server.answer(0, ModelUnavailable("away"))
        await settle()
        server.answer(1, ModelUnavailable("away"))
        found = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(each) for each in found] == [ModelUnavailable] * 3
        (late,) = ask(batches, row(4))
        await settle()
        server.answer(2)
        assert float((await late)[0, 0]) == 4.0

    run(test())


@pytest.mark.parametrize("how", [row(0, 5)[:, :1], RuntimeError("a defect")])
def test_defect_reaches_every_caller(server: HeldServer, how: Matrix | Exception) -> None:
    """Nobody is left waiting, whatever goes wrong."""

    async def test() -> None:
        callers = ask(batcher(server, calls=1), row(0), row(1), row(2))
        await settle()
        server.answer(0)
        await settle()
        server.answer(1, how)
        found = await asyncio.gather(*callers, return_exceptions=True)
        expected = RuntimeError if isinstance(how, Exception) else FatalError
        assert [type(each) for each in found[1:]] == [expected] * 2

    run(test())


def test_caller_whose_time_is_over_is_not_asked_for(server: HeldServer) -> None:
    async def test() -> None:
        batches = batcher(server, calls=1)
        (first,) = ask(batches, row(0))
        await settle()
        (late,) = ask(batches, row(1), timeout_s=0.0)
        (long,) = ask(batches, row(2), timeout_s=60.0)
        (short,) = ask(batches, row(3), timeout_s=4.0)
        await settle()
        server.answer(0)
        await settle()
        assert server.rows == [1, 2]
        assert server.held[1][2] == 60.0, "a call has the time of its most patient caller"
        server.answer(1)
        assert [float((await each)[0, 0]) for each in (long, short)] == [2.0, 3.0]
        assert float((await first)[0, 0]) == 0.0
        with pytest.raises(ModelUnavailable):
            await late

    run(test())


def test_models_do_not_wait_for_each_other(server: HeldServer) -> None:
    other = ServedModel("tiny__2", WIDTH, max_rows=8)

    async def test() -> None:
        batches = batcher(server, calls=1)
        (slow,) = ask(batches, row(1))
        quick = asyncio.create_task(batches.scores(other, row(2), 5.0))
        await settle()
        assert server.names == ["tiny__1", "tiny__2"]
        server.answer(1)
        assert float((await quick)[0, 0]) == 2.0
        assert not slow.done()
        server.answer(0)
        assert float((await slow)[0, 0]) == 1.0

    run(test())
