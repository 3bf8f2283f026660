"""A batch that is with the model, or with several: its rows are divided and put together again.

A canary may be wrong in any way. Whatever it does not answer, the champion is asked for; only what
the champion fails on is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from penstock_schemas.errors import PenstockError, ShapeMismatch
from penstock_streaming.timing import Deadline

from penstock_inference.circuit_breaker import BESIDE, CircuitBreakers
from penstock_inference.model_calls import ModelCalls
from penstock_inference.model_server import PendingScores
from penstock_inference.pipeline import AnsweredBy
from penstock_inference.routing import Route, RouteTable, Which
from penstock_inference.tensors import Matrix, RowErrors, Rows

CANARY_TIMEOUT_S = 2.0
"""Longest deadline of a call to a canary, seconds: the champion's rows wait for it too."""
CANARY_ISOLATION_S = 1.0
"""Time to find the rows that a canary fails on, seconds; then the champion answers all."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of n rows and who gave them.

    Parameters
    ----------
    scores
        Shape (n, k), float32; not to be used in the rows of ``errors``.
    errors
        (row, why) of the rows that the champion fails on, ascending.
    fallbacks
        Rows that the champion answered for each canary.
    """

    scores: Matrix
    errors: RowErrors
    by: AnsweredBy
    fallbacks: Sequence[tuple[Route, int]] = ()


class Asked(Protocol):
    """A batch that is with the models."""

    def done(self, within_s: float = 0.0) -> bool:
        """Tell whether `answers` would return without waiting, after ``within_s`` at most."""

    def answers(self, timeout_s: float) -> Answers:
        """Return the answers; raises ModelUnavailable where the champion is away."""


class AskedOne:
    """A batch that is with one model.

    Parameters
    ----------
    matrix
        Shape (n, d), float32, n ≥ 1.
    """

    def __init__(self, calls: ModelCalls, route: Route, matrix: Matrix) -> None:
        self._calls = calls
        self._route = route
        self._matrix = matrix
        self._call = calls.start(route, matrix)

    def done(self, within_s: float = 0.0) -> bool:
        """Tell whether the model has answered, or does in time."""
        return self._call.done(within_s)

    def answers(self, timeout_s: float) -> Answers:
        """Return the answers; raises ModelUnavailable where the model is away."""
        scores, errors = self._calls.scores(self._route, self._matrix, self._call, timeout_s)
        return Answers(scores, errors, AnsweredBy((self._route,)))


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of a route; ``rows`` are those in the batch."""

    route: Route
    rows: Rows
    matrix: Matrix
    call: PendingScores


@dataclass(slots=True)
class _Merged:
    """What has come back so far; ``which`` says who answers each row."""

    scores: Matrix
    which: Which
    errors: RowErrors = field(default_factory=list)


class AskedSeveral:
    """A batch whose rows are with the champion and its canaries, all calls in flight at once.

    Parameters
    ----------
    matrix
        Shape (n, d), float32, n ≥ 1.
    which
        Shape (n,): the route of each row's key, by its index in the table.
    """

    def __init__(
        self,
        calls: ModelCalls,
        breakers: CircuitBreakers,
        table: RouteTable,
        matrix: Matrix,
        which: Which,
    ) -> None:
        self._calls = calls
        self._breakers = breakers
        self._routes = table.routes
        self._matrix = matrix
        self._wanted = which
        self._asked = which.copy()
        for index, route in enumerate(self._routes[1:], 1):
            if not breakers.allow_call(route.model.name):
                self._asked[which == index] = 0
        self._parts = [self._start(int(index)) for index in np.unique(self._asked)]

    def done(self, within_s: float = 0.0) -> bool:
        """Tell whether every model has answered, or does in time."""
        deadline = Deadline(within_s)
        return all(part.call.done(deadline.remaining_s) for part in self._parts)

    def answers(self, timeout_s: float) -> Answers:
        """Return the answers in the order of the rows.

        Raises
        ------
        ModelUnavailable
            The champion is away.
        """
        deadline = Deadline(timeout_s)
        champion = self._routes[0]
        width = max(1, champion.model.score_width)
        scores = np.full((len(self._matrix), width), np.nan, dtype=np.float32)
        merged = _Merged(scores, self._asked.copy())
        # The champion first: while it is away nothing is said about a canary.
        for part in self._parts:
            if part.route is champion:
                found = self._calls.scores(champion, part.matrix, part.call, deadline.remaining_s)
                if not _merge(merged, part.rows, *found):
                    return self._champion_alone()
            else:
                self._merge_canary(merged, part, deadline.remaining_s)
        left = np.flatnonzero((merged.which == 0) & (self._asked != 0))
        if len(left):
            found = self._calls.ask(champion, self._matrix[left])
            if not _merge(merged, left, *found):
                return self._champion_alone()
        merged.errors.sort(key=lambda item: item[0])
        return self._answers(merged)

    def _champion_alone(self) -> Answers:
        """Ask the champion for all rows: its scores are of another width than it describes."""
        rows = np.arange(len(self._matrix))
        scores, errors = self._calls.ask(self._routes[0], self._matrix)
        return self._answers(_Merged(scores, np.zeros(len(rows), dtype=np.int8), errors))

    def _start(self, index: int) -> _Part:
        route = self._routes[index]
        rows = np.flatnonzero(self._asked == index)
        matrix = self._matrix[rows]
        limit_s = CANARY_TIMEOUT_S if index else math.inf
        return _Part(route, rows, matrix, self._calls.start(route, matrix, limit_s))

    def _merge_canary(self, merged: _Merged, part: _Part, timeout_s: float) -> None:
        """Take over what a canary has answered; give the champion the other rows."""
        try:
            scores, errors = self._calls.scores(
                part.route, part.matrix, part.call, timeout_s, CANARY_ISOLATION_S
            )
            _check(scores, errors, merged.scores.shape[1])
        except PenstockError as exc:
            # Even what would be fatal of a champion is only the end of this canary's try.
            self._breakers.record_failure(part.route.model.name, exc, BESIDE)
            merged.which[part.rows] = 0
            return
        if len(errors) < len(scores):
            self._breakers.record_success(part.route.model.name)
            merged.scores[part.rows] = scores
        merged.which[part.rows[[row for row, _ in errors]]] = 0

    def _answers(self, merged: _Merged) -> Answers:
        moved = (self._wanted != 0) & (merged.which == 0)
        moved[[row for row, _ in merged.errors]] = False
        by = AnsweredBy(self._routes, merged.which)
        fallbacks = AnsweredBy(self._routes, self._wanted[moved]).counts(len(moved))
        return Answers(merged.scores, merged.errors, by, list(fallbacks))


def _check(scores: Matrix, errors: RowErrors, width: int) -> None:
    """Raise what is wrong with all of a canary's answer; a lone row may be wrong itself."""
    if len(errors) == len(scores):
        if len(scores) > 1:
            raise errors[0][1]
    elif scores.shape[1] != width:
        raise ShapeMismatch("wrong number of scores", expected=str(width), got=str(scores.shape[1]))


def _merge(merged: _Merged, rows: Rows, scores: Matrix, errors: RowErrors) -> bool:
    """Take over what the champion has answered; False where its width is not the expected one."""
    if len(errors) < len(rows):
        if scores.shape[1] != merged.scores.shape[1]:
            return False
        merged.scores[rows] = scores
    merged.errors.extend((int(rows[row]), error) for row, error in errors)
    return True
