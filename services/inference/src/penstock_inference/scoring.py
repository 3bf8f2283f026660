"""Scores for REST callers: the same route and the same model connection as the stream."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ModelUnavailable

from penstock_inference.model_link import ModelLink
from penstock_inference.routing import Route
from penstock_inference.tensors import Matrix, finite_scores
from penstock_inference.triton import TritonServer


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores and the version that gave them."""

    route: Route
    scores: Matrix


class Scorer(Protocol):
    """What the gateway needs of a pipeline's model; tests give their own."""

    @property
    def ready(self) -> bool:
        """Tell whether a model answers."""

    @property
    def versions(self) -> list[str]:
        """Versions that may be asked for by number."""

    async def route(self, version: str | None) -> Route | None:
        """Return what serves, or a version by number; None for a version that is not known."""

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix."""


class LinkedScorer:
    """Scores through the model link of one pipeline.

    Parameters
    ----------
    config
        The pipeline.
    link
        Says which model serves.
    server
        The model server.
    """

    def __init__(self, config: PipelineConfig, link: ModelLink, server: TritonServer) -> None:
        self._config = config
        self._link = link
        self._server = server

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
        """Return what serves, or a version by number; None for a version that is not known.

        Raises
        ------
        ModelUnavailable
            Nothing serves, or the version is not loaded.
        """
        if version is not None:
            # Asks the model server unless it is the version that serves.
            return await asyncio.to_thread(self._link.route_of, version)
        route = self._link.route
        if route is None:
            raise ModelUnavailable(f"no model serves {self._config.pipeline} yet")
        return route

    async def score(self, route: Route, matrix: Matrix) -> Scored:
        """Return the scores of a matrix.

        Raises
        ------
        ModelUnavailable
            The model is away.
        RecordError
            The model refuses the tensor, fails on it, or answers NaN or Inf.
        """
        call = self._server.start(route.model, matrix, self._config.model.timeout_s)
        await call.settled()
        scores = call.scores(0.0)
        for _, error in finite_scores(scores):
            raise error
        return Scored(route, scores)
