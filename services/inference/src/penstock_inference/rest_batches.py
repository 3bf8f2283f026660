"""Concurrent callers' matrices, merged into few calls of the model.

Natural batching: while the calls of a model are on their way, what arrives waits; then all of it
goes as one call. Nobody waits for a batch to fill, so a lone caller is not delayed.

A caller that goes away, or whose time is over, takes nobody with it: each waits for an answer of
its own, and the call belongs to none of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import numpy as np
from penstock_schemas.errors import FatalError, ModelUnavailable, PenstockError, RecordError

from penstock_inference.model_server import INPUT, ModelServer, ServedModel
from penstock_inference.tensors import Matrix

CALLS: Final = 2
"""Calls of one model on their way at once: one at the model, one on its way to it."""


OnCall = Callable[[ServedModel, PenstockError | None], object]
"""Is told how each call has ended: None, or why it has no scores."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """One caller's rows, and where it waits for their scores; ``until``: in the queue."""

    matrix: Matrix
    answer: asyncio.Future[Matrix]
    timeout_s: float
    until: float

    def give(self, scores: Matrix) -> None:
        if not self.answer.done():
            self.answer.set_result(scores)

    def fail(self, why: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(why)


@dataclass(slots=True)
class _Queue:
    """What waits for one model; ``calls`` are on their way."""

    waiting: deque[_Caller] = field(default_factory=deque)
    calls: int = 0


class Batches:
    """Merges matrices by model; used by one event loop.

    Its queues are bounded by whoever lets callers in.

    Parameters
    ----------
    calls
        Calls of one model on their way at once.
    """

    def __init__(
        self, server: ModelServer, on_call: OnCall = lambda model, error: None, calls: int = CALLS
    ) -> None:
        self._server = server
        self._on_call = on_call
        self._calls = calls
        self._queues: dict[str, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def scores(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        """Return the scores of a matrix.

        Parameters
        ----------
        matrix
            Shape (n, d), float32, n ≥ 1.
        timeout_s
            Longest wait in the queue, and then again for the model, seconds. The model has all of
            it, however long the caller waited: a call that is late tells about the model.

        Raises
        ------
        ModelUnavailable
            The model is away, or did not get to it in time.
        RecordError
            The model refuses this matrix, or fails on it.
        FatalError
            Waiting would not help.
        """
        answer = asyncio.get_running_loop().create_future()
        caller = _Caller(matrix, answer, timeout_s, monotonic() + timeout_s)
        queue = self._queues.setdefault(model.name, _Queue())
        queue.waiting.append(caller)
        self._send(model, queue)
        scores: Matrix = await answer
        return scores

    def _send(self, model: ServedModel, queue: _Queue) -> None:
        """Send what waits for a model as far as calls are free."""
        while queue.calls < self._calls and (callers := _taken(queue.waiting, model.max_rows)):
            queue.calls += 1
            task = asyncio.get_running_loop().create_task(self._run(model, queue, callers))
            self._tasks.add(task)  # the loop itself holds its tasks weakly
            task.add_done_callback(self._tasks.discard)
        if not queue.calls and not queue.waiting:
            self._queues.pop(model.name, None)

    async def _run(self, model: ServedModel, queue: _Queue, callers: list[_Caller]) -> None:
        try:
            await self._ask(model, callers)
        except Exception as exc:
            # Whatever it is: a caller that nobody answers would wait for ever.
            for caller in callers:
                caller.fail(exc)
        finally:
            queue.calls -= 1
            self._send(model, queue)

    async def _ask(self, model: ServedModel, callers: Sequence[_Caller]) -> None:
        """Ask for the scores of some callers; those of a call that fails are asked for in halves.

        So only the caller whose row is at fault fails.
        """
        callers = [caller for caller in callers if not caller.answer.done()]
        if not callers:
            return
        matrices = [caller.matrix for caller in callers]
        matrix = matrices[0] if len(matrices) == 1 else np.concatenate(matrices)
        timeout_s = max(caller.timeout_s for caller in callers)
        try:
            scores = await self._call(model, matrix, timeout_s)
        except RecordError as exc:
            if len(callers) == 1:
                callers[0].fail(exc)
                return
            middle = len(callers) // 2
            await self._ask(model, callers[:middle])
            await self._ask(model, callers[middle:])
            return
        start = 0
        for caller in callers:
            stop = start + len(caller.matrix)
            caller.give(scores[start:stop])
            start = stop

    async def _call(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        try:
            call = self._server.start_inference(model, {INPUT: matrix}, timeout_s)
            await call.settled()
            scores = call.scores(0.0)
        except PenstockError as exc:
            self._on_call(model, exc)
            raise
        if len(scores) != len(matrix):
            raise FatalError(f"{model.name}: {len(scores)} scores of {len(matrix)} rows")
        self._on_call(model, None)
        return scores


def _taken(waiting: deque[_Caller], max_rows: int) -> list[_Caller]:
    """Take the callers of the next call: in their order, and not more rows than a call takes."""
    taken: list[_Caller] = []
    rows = 0
    now = monotonic()
    while waiting:
        caller = waiting[0]
        if caller.answer.done():
            waiting.popleft()  # it has gone
        elif caller.until <= now:
            waiting.popleft().fail(ModelUnavailable("the model did not get to it in time"))
        elif taken and rows + len(caller.matrix) > max_rows:
            break
        else:
            taken.append(waiting.popleft())
            rows += len(caller.matrix)
    return taken
