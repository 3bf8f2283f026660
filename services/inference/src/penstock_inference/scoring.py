"""Scores for REST callers: the same routes and the same model connection as the stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import (
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    RecordError,
    ShapeMismatch,
)

from penstock_inference.answers import CANARY_TIMEOUT_S
from penstock_inference.circuit_breaker import BESIDE
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_link import ModelLink
from penstock_inference.model_server import DeadlineHit, ModelServer, ServedModel
from penstock_inference.rest_batches import Batches
from penstock_inference.routing import Route, RouteTable
from penstock_inference.tensors import Matrix, finite_scores


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores and the version that gave them."""

    route: Route
    scores: Matrix


class Scorer(Protocol):
    """What the gateway needs of a pipeline's models; tests give their own."""

    @property
    def ready(self) -> bool:
        """Tell whether a model answers."""

    @property
    def versions(self) -> list[str]:
        """Versions that may be asked for by number."""

    async def route(self, version: str | None) -> Route | None:
        """Return the champion, or a version by number; None for a version that is not known."""

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix by one version."""

    async def answer(self, key: bytes | None, matrix: Matrix) -> Scored:
        """Return the scores of a key's event by the version that the key meets in the stream."""


class LinkedScorer:
    """Scores through the model link of one pipeline; used by one event loop.

    Parameters
    ----------
    config
        The pipeline.
    link
        Says which models serve.
    server
        The model server.
    metrics
        Counts what the champion answers for a canary.
    """

    def __init__(
        self,
        config: PipelineConfig,
        link: ModelLink,
        server: ModelServer,
        metrics: InferenceMetrics,
    ) -> None:
        self._config = config
        self._link = link
        self._batches = Batches(server, self._called)
        self._metrics = metrics
        self._breakers = link.breakers

    @property
    def ready(self) -> bool:
        """Tell whether a model answers."""
        return self._link.ready

    @property
    def versions(self) -> list[str]:
        """Versions that may be asked for by number."""
        state = self._link.state
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
            return await asyncio.to_thread(self._link.route_of, version)
        return self._table().champion

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix by one version.

        Raises
        ------
        ModelUnavailable
            The model is away, or fails on whatever it is asked. While it is known to be, no call
            is sent.
        RecordError
            The model refuses the tensor, fails on it, or answers NaN or Inf.
        """
        name = route.model.name
        if self._is_champion(name) and not self._link.breakers.is_closed(name):
            raise ModelUnavailable(f"{name} fails: no call is sent")
        return await self._score(route, matrix, self._config.model.timeout_s)

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
        table = self._table()
        route = table.route_of(key)
        if route is table.champion:
            return await self.score(route, matrix)
        scored = await self._try_canary(route, table, matrix)
        if scored is None:
            scored = await self.score(table.champion, matrix)
            self._metrics.fell_back(route, len(matrix))
        return scored

    async def _try_canary(self, route: Route, table: RouteTable, matrix: Matrix) -> Scored | None:
        """Return a canary's scores; None where it has none, whatever the reason."""
        if not self._breakers.allow_call(route.model.name):
            return None
        limit_s = min(CANARY_TIMEOUT_S, self._config.model.timeout_s)
        try:
            scored = await self._score(route, matrix, limit_s)
            expected, got = table.champion.model.score_width, scored.scores.shape[1]
            if got != expected:
                raise ShapeMismatch("wrong number of scores", expected=str(expected), got=str(got))
        except RecordError:
            return None  # it may be the record
        except PenstockError as exc:
            self._breakers.record_failure(route.model.name, exc, BESIDE)
            return None
        self._breakers.record_success(route.model.name)
        return scored

    async def _score(self, route: Route, matrix: Matrix, timeout_s: float) -> Scored:
        model = route.model
        try:
            scores = await self._batches.scores(model, matrix, timeout_s)
        except ModelRejected as exc:
            await self._check_lives(model, exc, timeout_s)
            raise
        for _, error in finite_scores(scores):
            raise error
        if self._is_champion(model.name):
            self._link.samples.keep_sample(matrix)
        return Scored(route, scores)

    async def _check_lives(self, model: ServedModel, why: ModelRejected, timeout_s: float) -> None:
        """Check that a model that fails on a matrix does not fail on a good row too.

        Raises
        ------
        ModelUnavailable
            It does: its process has died, and it was not the caller's fault.
        """
        row = self._link.samples.sample(1, model.width)
        try:
            await self._batches.scores(model, row, timeout_s)
        except ModelRejected:
            self._link.suspect(model.name, row)
            raise ModelUnavailable(str(why)) from why

    def _called(self, model: ServedModel, error: PenstockError | None) -> None:
        """Tell the champion's circuit how a call has ended; a canary's is told by its callers."""
        table = self._link.table
        if isinstance(error, DeadlineHit) and table is not None:
            for route in table.routes:
                if route.model.name == model.name:
                    self._metrics.deadline_hit(route)
        if not self._is_champion(model.name):
            return
        if isinstance(error, ModelUnavailable):
            self._link.breakers.record_failure(model.name, error)
        elif error is None or isinstance(error, RecordError):
            self._link.breakers.record_success(model.name)

    def _is_champion(self, name: str) -> bool:
        table = self._link.table
        return table is not None and table.champion.model.name == name

    def _table(self) -> RouteTable:
        table = self._link.table
        if table is None:
            raise ModelUnavailable(f"no model serves {self._config.pipeline} yet")
        return table
