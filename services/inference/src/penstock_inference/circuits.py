"""The circuits of what serves: shown, and the champion's probed aside from the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from penstock_schemas.errors import ModelUnavailable

from penstock_inference.circuit_breaker import BreakerState, CircuitBreakers
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import SampleRows, ServedModel
from penstock_inference.routing import RouteTable
from penstock_inference.tensors import Matrix


class Probe(Protocol):
    """Sends one row to a model; `ModelLoader.probe` in service."""

    def __call__(self, model: ServedModel, row: Matrix) -> ModelUnavailable | None:
        """Return why the row is not answered; None if it is."""


class Circuits:
    """The circuits of one pipeline's models; its methods are called by the keeper's thread.

    Parameters
    ----------
    probe
        Sends one row to a model.
    seen
        Rows that went through the champion: one of them is the probe.
    metrics
        Shows the states.
    clock
        Monotonic seconds.

    Attributes
    ----------
    breakers
        Told by whoever sends calls, in any thread.
    """

    def __init__(
        self,
        probe: Probe,
        seen: SampleRows,
        metrics: InferenceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.breakers = CircuitBreakers(clock, self._show)
        self._seen = seen
        self._probe = probe
        self._metrics = metrics
        self._table: RouteTable | None = None

    def follow(self, table: RouteTable | None) -> None:
        """Learn what serves now."""
        before, self._table = self._table, table
        if table is None:
            return
        if before is None or before.champion.model.name != table.champion.model.name:
            # What opened it as a canary says little about one that nobody stands in for.
            self.breakers.reset_breaker(table.champion.model.name)
        for route in (*table.routes, *table.shadows):
            self._metrics.breaker(route.version, self.breakers.state(route.model.name))

    def lost(self, name: str) -> None:
        """Learn that the server does not call a model ready: without traffic no call tells."""
        self.breakers.record_failure(name, ModelUnavailable(f"{name} is not ready"))

    def is_closed(self, model: ServedModel) -> bool:
        """Tell whether a model's circuit is closed; sends the probe if one is due."""
        breakers, name = self.breakers, model.name
        if not breakers.is_closed(name) and breakers.allow_call(name):
            error = self._probe(model, self._seen.sample(1, model.width))
            if error is None:
                breakers.record_success(name)
            else:
                breakers.record_failure(name, error)
        return breakers.is_closed(name)

    def _show(self, name: str, state: BreakerState) -> None:
        table = self._table
        for route in () if table is None else (*table.routes, *table.shadows):
            if route.model.name == name:
                self._metrics.breaker(route.version, state)
