"""Calls to the model server, and what their outcome says about the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from penstock_schemas.errors import ModelRejected, ModelUnavailable, ShapeMismatch

from penstock_inference.circuit_breaker import CircuitBreakers
from penstock_inference.isolation import isolate
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import (
    INPUT,
    DeadlineHit,
    ModelServer,
    PendingScores,
    SampleRows,
    ServedModel,
)
from penstock_inference.routing import CHAMPION, Route, RouteTable
from penstock_inference.shadows import ShownRows
from penstock_inference.tensors import Matrix, RowErrors, finite_scores

ISOLATION_S = 10.0
"""Time to find the rows that a model fails on, seconds; then the batch is tried again."""

OPEN_RETRY_S = 0.25
"""Wait that a refusal by an open circuit asks for, seconds; it has cost nothing."""


@dataclass(frozen=True, slots=True)
class Model:
    """How the handler gets scores.

    Parameters
    ----------
    scorer
        The model server.
    table
        Returns who answers for which keys now; None while nothing serves.
    timeout_s
        Deadline of one inference call, seconds.
    suspect
        Is told the name of a model that no row goes through, and a row that once did.
    breakers
        The circuits of the pipeline's models; whoever made them probes the champion.
    seen
        Is told rows that the champion has answered.
    deadline_ms
        Returns the age of an event at which the model is not asked any more, milliseconds.
    shadow
        Is given what the champion or a canary has answered, where there are shadows; returns at
        once.
    """

    scorer: ModelServer
    table: Callable[[], RouteTable | None]
    timeout_s: float
    suspect: Callable[[str, Matrix | None], object] = lambda name, row: None
    breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    seen: SampleRows = field(default_factory=SampleRows)
    deadline_ms: Callable[[], int | None] = lambda: None
    shadow: Callable[[ShownRows], object] = lambda shown: None


class ModelCalls:
    """Starts calls and turns what comes back into scores and failing rows.

    Parameters
    ----------
    model
        How scores are got.
    metrics
        Counts the searches for failing rows.
    """

    def __init__(self, model: Model, metrics: InferenceMetrics) -> None:
        self._scorer = model.scorer
        self._timeout_s = model.timeout_s
        self._suspect = model.suspect
        self._breakers = model.breakers
        self._seen = model.seen
        self._metrics = metrics
        self._probes: dict[str, Matrix] = {}

    def start(self, route: Route, matrix: Matrix, limit_s: float = math.inf) -> PendingScores:
        """Send a matrix, shape (n, d), and return at once; ``limit_s`` shortens the deadline.

        Raises
        ------
        ModelUnavailable
            The champion's circuit is open. Others are asked only by who knows theirs to be closed.
        """
        name = route.model.name
        if route.variant == CHAMPION and not self._breakers.is_closed(name):
            raise ModelUnavailable(f"{name} fails: no call is sent", retry_after_s=OPEN_RETRY_S)
        return self._scorer.start_inference(
            route.model, {INPUT: matrix}, min(self._timeout_s, limit_s)
        )

    def ask(self, route: Route, matrix: Matrix) -> tuple[Matrix, RowErrors]:
        """Send a matrix and wait for its scores; as `scores`."""
        # A little longer than the call's own deadline, so that its error is the one seen.
        return self.scores(route, matrix, self.start(route, matrix), self._timeout_s + 1.0)

    def scores(
        self,
        route: Route,
        matrix: Matrix,
        call: PendingScores,
        timeout_s: float,
        isolation_s: float | None = None,
    ) -> tuple[Matrix, RowErrors]:
        """Return the scores of a matrix and the rows that have none; finds a failing row.

        Parameters
        ----------
        isolation_s
            Time to find failing rows, seconds; `ISOLATION_S` if not given.

        Raises
        ------
        ModelUnavailable
            The model is away; the same rows are to be tried again.
        """
        model = route.model
        try:
            scores, errors = self._outcome(model, matrix, call, timeout_s, isolation_s)
        except ModelUnavailable as exc:
            if isinstance(exc, DeadlineHit):
                self._metrics.deadline_hit(route)
            if route.variant == CHAMPION:
                self._breakers.record_failure(model.name, exc)
            raise
        if route.variant == CHAMPION:
            self._breakers.record_success(model.name)
        known = {row for row, _ in errors}
        errors.extend((row, e) for row, e in finite_scores(scores) if row not in known)
        errors.sort(key=lambda item: item[0])
        bad = {row for row, _ in errors}
        good = next((row for row in range(len(matrix)) if row not in bad), None)
        if good is not None and model.name not in self._probes:
            self._probes[model.name] = matrix[good : good + 1].copy()
        if not errors and route.variant == CHAMPION:
            self._seen.keep_sample(matrix)
        return scores, errors

    def _outcome(
        self,
        model: ServedModel,
        matrix: Matrix,
        call: PendingScores,
        timeout_s: float,
        isolation_s: float | None,
    ) -> tuple[Matrix, RowErrors]:
        """Return the scores, and the rows that the model refuses or fails on."""
        try:
            return call.scores(timeout_s), []
        except ShapeMismatch as exc:
            # All rows have the model's own width: what is refused is the same for each.
            return np.empty((len(matrix), 1), dtype=np.float32), [
                (row, exc) for row in range(len(matrix))
            ]
        except ModelRejected:
            limit_s = ISOLATION_S if isolation_s is None else isolation_s
            return self._isolated(model, matrix, limit_s)

    def _isolated(
        self, model: ServedModel, matrix: Matrix, limit_s: float
    ) -> tuple[Matrix, RowErrors]:
        self._metrics.isolations.inc()
        probe = self._probes.get(model.name)

        def infer(part: Matrix) -> Matrix:
            return self._scorer.infer(model, {INPUT: part}, min(self._timeout_s, limit_s))

        try:
            return isolate(infer, matrix, probe, limit_s)
        except ModelUnavailable:
            self._suspect(model.name, probe)
            raise

    def forget_all_but(self, routes: tuple[Route, ...]) -> None:
        """Forget the good rows of models that no route names any more."""
        names = {route.model.name for route in routes}
        self._probes = {name: row for name, row in self._probes.items() if name in names}
