"""REST's half of the data plane: concurrent callers' matrices, merged into few calls of the model.

Natural batching: while the calls of a model are on their way, what arrives waits; then all of it
goes as one call. Nobody waits for a batch to fill, so a lone caller is not delayed.

A caller that goes away, or whose time is over, takes nobody with it: each waits for an answer of
its own, and the call belongs to none of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

import numpy as np
from penstock_schemas.errors import (
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    RecordError,
)

from penstock_inference.model_manager import ModelManager
from penstock_inference.model_server import INPUT, Matrix, ServedModel
from penstock_inference.scoring import (
    Answers,
    DataPlane,
    Found,
    Halves,
    Part,
    Scored,
    SplitBatch,
    refused,
)
from penstock_inference.traffic_split import Route

CALLS: Final = 2
"""Calls of one model on their way at once: one at the model, one on its way to it."""


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


class AdaptiveBatcher:
    """Merges matrices by model; used by one event loop.

    Its queues are bounded by whoever lets callers in.

    Parameters
    ----------
    calls
        Calls of one model on their way at once.
    """

    def __init__(self, plane: DataPlane, calls: int = CALLS) -> None:
        self._plane = plane
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
            await self._answer_callers(model, callers)
        except Exception as exc:
            # Whatever it is: a caller that nobody answers would wait for ever.
            for caller in callers:
                caller.fail(exc)
        finally:
            queue.calls -= 1
            self._send(model, queue)

    async def _answer_callers(self, model: ServedModel, callers: list[_Caller]) -> None:
        """Ask for the scores of some callers; those of a call that fails are asked for in halves.

        So only the caller whose row is at fault fails.
        """
        halves = Halves(callers)
        for part in halves:
            asked = [caller for caller in part if not caller.answer.done()]
            if not asked:
                continue
            matrices = [caller.matrix for caller in asked]
            matrix = matrices[0] if len(matrices) == 1 else np.concatenate(matrices)
            try:
                scores = await self._call(model, matrix, max(c.timeout_s for c in asked))
            except RecordError as exc:
                if not halves.split_part(asked):
                    asked[0].fail(exc)
                continue
            start = 0
            for caller in asked:
                stop = start + len(caller.matrix)
                caller.give(scores[start:stop])
                start = stop

    async def _call(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        try:
            call = self._plane.server.start_inference(model, {INPUT: matrix}, timeout_s)
            await call.settled()
            scores = call.scores(0.0)
        except PenstockError as exc:
            self._plane.record_call(model, exc)
            raise
        if len(scores) != len(matrix):
            raise FatalError(f"{model.name}: {len(scores)} scores of {len(matrix)} rows")
        self._plane.record_call(model, None)
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


class RestScorer:
    """Scores of one pipeline for REST callers; used by one event loop.

    Parameters
    ----------
    plane
        Asks the same models as the stream, by the same rules.
    manager
        Knows the versions that may be asked for by number.
    """

    def __init__(self, plane: DataPlane, manager: ModelManager) -> None:
        self._plane = plane
        self._manager = manager
        self._batcher = AdaptiveBatcher(plane)

    @property
    def ready(self) -> bool:
        """Whether a model answers."""
        return self._manager.ready

    @property
    def versions(self) -> list[str]:
        """Versions that may be asked for by number."""
        state = self._manager.routing_state
        return [v.version for v in state.versions if v.state != "retired"] if state else []

    async def route(self, version: str | None) -> Route | None:
        """Return the champion, or a version by number; None for a version that is not known.

        Raises
        ------
        ModelUnavailable
            Nothing serves, or the version is not loaded.
        """
        if version is not None:
            # Asks the model server unless it is a version that takes traffic.
            return await asyncio.to_thread(self._manager.route_of, version)
        return self._plane.current_table().champion

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix by one version.

        Raises
        ------
        ModelUnavailable
            The model is away, or fails on whatever it is asked. While the champion is known to be,
            no call is sent.
        RecordError
            The model refuses the tensor, fails on it, or answers NaN or Inf.
        """
        return Scored(route, await self._scores(route, matrix, self._plane.timeout_s))

    async def answer(self, key: bytes | None, matrix: Matrix) -> Scored:
        """Return the scores of a key's event by the version that the key meets in the stream.

        As there, the champion answers what a canary does not.

        Raises
        ------
        ModelUnavailable
            Nothing serves, or the champion is away.
        RecordError
            The champion refuses the tensor, fails on it, or answers NaN or Inf.
        """
        table = self._plane.current_table()
        index = int(table.split([key])[0]) if table.canaries else 0
        if index == 0:
            return await self.score(table.champion, matrix)
        which = np.full(len(matrix), index, dtype=np.int8)
        serving = self._plane.serving
        answers = await self._merge(SplitBatch(serving.breakers, table, matrix, which))
        for _, error in answers.errors:
            raise error
        for canary, rows in answers.fallbacks:
            serving.metrics.fell_back(canary, rows)
        answered = 0 if answers.which is None else int(answers.which[0])
        return Scored(table.routes[answered], answers.scores)

    async def _merge(self, split: SplitBatch) -> Answers:
        merging = split.merge_parts()
        try:
            part = next(merging)
            while True:
                try:
                    found = await self._part_scores(part)
                except PenstockError as exc:
                    part = merging.throw(exc)
                else:
                    part = merging.send(found)
        except StopIteration as end:
            answers: Answers = end.value
            return answers

    async def _part_scores(self, part: Part) -> Found:
        timeout_s = min(part.limit_s, self._plane.timeout_s)
        try:
            return await self._scores(part.route, part.matrix, timeout_s), []
        except RecordError as exc:
            return refused(part.matrix, exc)

    async def _scores(self, route: Route, matrix: Matrix, timeout_s: float) -> Matrix:
        plane, model = self._plane, route.model
        plane.check_circuit(route)
        try:
            scores = await self._batcher.scores(model, matrix, timeout_s)
        except ModelRejected as why:
            # Is it this matrix, or has the model's process died? A good row tells.
            row = plane.good_row(model)
            try:
                await self._batcher.scores(model, row, timeout_s)
            except ModelRejected:
                plane.serving.suspect_model(model.name, row)
                raise ModelUnavailable(str(why)) from why
            raise
        for _, error in plane.accept_scores(model, matrix, scores, []):
            raise error
        return scores
