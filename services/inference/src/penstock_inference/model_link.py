"""Keeps a process on the model versions that the routing topic orders.

The topic is the order, the model server the fact: a thread brings the fact to the order, loads
what the server has lost in a restart, and swaps the routes, one whole revision at a time, only when
the new champion is ready. A canary that is not ready holds nothing up: the champion answers for it.
Nor does a shadow, which answers nobody.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from penstock_schemas.errors import PenstockError, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState

from penstock_inference.circuits import Circuits
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_loader import ModelLoader
from penstock_inference.routing import (
    Route,
    RouteTable,
    canaries,
    is_newer,
    named,
    route_table,
    serving,
    shadows,
    variant_of,
)
from penstock_inference.tensors import Matrix
from penstock_inference.trouble_log import TroubleLog

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Time between two looks at the served model, seconds."""
JOIN_S = 5.0

Follow = Callable[[threading.Event, Callable[[RoutingState], None]], None]
"""Calls back with each routing state, the present one first, until the event is set."""


class ModelLink:
    """The routes of one pipeline, kept up to date by two threads.

    Parameters
    ----------
    follow
        Reads the routing topic.
    models
        What is loaded on the model server.
    metrics
        Shows what serves.
    clock
        Monotonic seconds.

    Attributes
    ----------
    breakers
        The circuits of the pipeline's models; the champion's is probed by the keeper.
    samples
        Rows that went through the champion, where the process notes them.
    """

    def __init__(
        self,
        follow: Follow,
        models: ModelLoader,
        metrics: InferenceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._circuits = Circuits(models.probe, models.samples, metrics, clock)
        self.breakers = self._circuits.breakers
        self.samples = models.samples
        self._follow = follow
        self._models = models
        self._metrics = metrics
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._state: RoutingState | None = None
        self._table: RouteTable | None = None
        self._canaries: list[ModelVersion] = []
        self._is_ready = False
        self._troubles = TroubleLog()
        self._threads = [
            threading.Thread(target=self._run_follower, name="routing-topic", daemon=True),
            threading.Thread(target=self._run_keeper, name="model-keeper", daemon=True),
        ]

    @property
    def table(self) -> RouteTable | None:
        """Who answers for which keys now; None while nothing serves."""
        return self._table

    @property
    def route(self) -> Route | None:
        """The champion's route now; None while nothing serves."""
        table = self._table
        return None if table is None else table.champion

    @property
    def state(self) -> RoutingState | None:
        """The newest routing state seen."""
        return self._state

    @property
    def ready(self) -> bool:
        """Tell whether the ordered champion answered the last time it was asked."""
        return self._is_ready and self._table is not None

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and wait for them a moment."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(JOIN_S)

    def route_of(self, version: str) -> Route | None:
        """Return the route of a version asked for by number; None where it is not known.

        Raises
        ------
        ModelUnavailable
            The version is known and not loaded.
        """
        table = self._table
        for route in () if table is None else table.routes:
            if route.version.version == version:
                return route
        found = named(self._state, version)
        if found is None:
            return None
        return Route(found, self._models.describe(found), variant_of(found))

    def on_state(self, state: RoutingState) -> None:
        """Take a routing state; an older revision than the known one is ignored."""
        if is_newer(state, self._state):
            self._state = state
            self._wake.set()

    def suspect(self, name: str, row: Matrix | None) -> None:
        """Learn that no row goes through a model; see `ModelLoader.suspect`."""
        self._models.suspect(name, row)
        self._wake.set()

    def keep(self) -> None:
        """Bring the routes to the newest state, once; called by the keeper's thread.

        Raises
        ------
        ModelUnavailable
            The server is away or the champion does not load; the old routes stay.
        ConfigError
            The champion does not fit the pipeline; the old routes stay.
        """
        state = self._state  # read once: the follower may replace it meanwhile
        wanted = serving(state)
        if state is None or wanted is None:
            self._is_ready = False
            self._swap(None)
            self._show_canaries([])
            return
        self._models.heal(wanted)
        model = self._models.known(wanted)
        if model is None:
            # While another version is loaded the old one answers; without its own it does not.
            if self._serves(wanted):
                self._is_ready = False
                self._circuits.lost(wanted.served_as)
            model = self._models.load(wanted)
        self._is_ready = self._circuits.is_closed(model)
        loaded = {wanted.served_as: model}
        candidates = [*canaries(state), *shadows(state)]
        for version in candidates:
            canary = self._models.canary(version, model)
            if canary is not None:
                loaded[version.served_as] = canary
        self._swap(route_table(state, loaded))
        self._models.forget_all_but([wanted, *candidates])
        self._show_canaries(candidates)

    def _show_canaries(self, candidates: list[ModelVersion]) -> None:
        """Show and log which canaries take no traffic, and why."""
        for version in {*self._canaries, *candidates}:
            trouble = self._models.troubles.get(version.served_as, "")
            self._metrics.canary_out(version, bool(trouble))
            self._troubles.say(f"canary {version.served_as}", trouble)
        self._canaries = candidates

    def _serves(self, version: ModelVersion) -> bool:
        route = self.route
        return route is not None and route.version.served_as == version.served_as

    def _swap(self, table: RouteTable | None) -> None:
        old = self._table
        if table == old:
            return
        self._metrics.serving(table, old)
        self._table = table
        self._circuits.follow(table)
        if table is None:
            logger.info("serving nothing")
            return
        shown = ", ".join(
            f"{route.model.name} {weight:g} %"
            for route, weight in zip(table.routes, table.weights, strict=True)
        )
        logger.info("serving %s, revision %s", shown, table.revision)

    def _run_follower(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._stop, self.on_state)
            except RetryableError as exc:
                logger.warning("routing topic: %s", exc)
                self._stop.wait(exc.retry_after_s)
            except Exception:
                # Without this thread the process would serve an old version for ever, unnoticed.
                logger.exception("routing topic")
                self._stop.wait(CHECK_S)

    def _run_keeper(self) -> None:
        while not self._stop.is_set():
            try:
                self.keep()
                self._troubles.say("model", "")
            except PenstockError as exc:
                self._is_ready = False
                self._troubles.say("model", str(exc))
            except Exception:
                self._is_ready = False
                logger.exception("model keeper")
            self._wake.wait(CHECK_S)
            self._wake.clear()
