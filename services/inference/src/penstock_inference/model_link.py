"""Keeps a process on the model version that the routing topic orders.

The topic is the order, the model server the fact: a thread brings the fact to the order, loads
what the server has lost in a restart, and swaps the route only when the new version is ready.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from penstock_schemas.errors import ConfigError, PenstockError, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState

from penstock_inference.metrics import InferenceMetrics
from penstock_inference.routing import Route, is_newer, named, serving
from penstock_inference.triton import ServedModel

logger = logging.getLogger(__name__)

CHECK_S = 1.0
"""Time between two looks at the served model, seconds."""
JOIN_S = 5.0

Follow = Callable[[threading.Event, Callable[[RoutingState], None]], None]
"""Calls back with each routing state, the present one first, until the event is set."""


class ModelServer(Protocol):
    """What the link asks of the model server; `TritonServer` in service."""

    def ready(self, name: str) -> bool:
        """Tell whether a model is loaded and ready."""

    def load(self, name: str) -> None:
        """Load a model."""

    def describe(self, name: str) -> ServedModel:
        """Return what the server says about a loaded model."""


class ModelLink:
    """The route of one pipeline, kept up to date by two threads.

    Parameters
    ----------
    follow
        Reads the routing topic.
    server
        The model server.
    width, max_rows
        Number of features of the pipeline, and most rows of a call that it allows.
    metrics
        Shows what serves.
    """

    def __init__(
        self,
        follow: Follow,
        server: ModelServer,
        *,
        width: int,
        max_rows: int,
        metrics: InferenceMetrics,
    ) -> None:
        self._follow = follow
        self._server = server
        self._width = width
        self._max_rows = max_rows
        self._metrics = metrics
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._state: RoutingState | None = None
        self._route: Route | None = None
        self._is_ready = False
        self._trouble = ""
        self._threads = [
            threading.Thread(target=self._run_follower, name="routing-topic", daemon=True),
            threading.Thread(target=self._run_keeper, name="model-keeper", daemon=True),
        ]

    @property
    def route(self) -> Route | None:
        """What serves now; None while nothing does."""
        return self._route

    @property
    def state(self) -> RoutingState | None:
        """The newest routing state seen."""
        return self._state

    @property
    def ready(self) -> bool:
        """Tell whether the ordered version answered the last time it was asked."""
        return self._is_ready and self._route is not None

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
        route = self._route
        if route is not None and route.version.version == version:
            return route
        found = named(self._state, version)
        return None if found is None else self._route_to(found)

    def on_state(self, state: RoutingState) -> None:
        """Take a routing state; an older revision than the known one is ignored."""
        if is_newer(state, self._state):
            self._state = state
            self._wake.set()

    def keep(self) -> None:
        """Bring the route to the newest state, once; called by the keeper's thread.

        Raises
        ------
        ModelUnavailable
            The server is away or the version does not load; the old route stays.
        ConfigError
            The version does not fit the pipeline; the old route stays.
        """
        wanted = serving(self._state)
        current = self._route
        if wanted is None:
            self._is_ready = False
            self._swap(None)
        elif current is None or current.version != wanted:
            self._server.load(wanted.served_as)
            self._swap(self._route_to(wanted))
            self._is_ready = True
        elif self._server.ready(wanted.served_as):
            self._is_ready = True
        else:
            self._is_ready = False
            self._server.load(wanted.served_as)
            self._is_ready = True

    def _route_to(self, version: ModelVersion) -> Route:
        model = self._server.describe(version.served_as)
        if model.width != self._width:
            raise ConfigError(
                f"model {version.served_as} takes {model.width} features, "
                f"the pipeline has {self._width}"
            )
        return Route(version, replace(model, max_rows=min(model.max_rows, self._max_rows)))

    def _swap(self, route: Route | None) -> None:
        if route == self._route:
            return
        self._metrics.serving(route, self._route)
        self._route = route
        shown = "nothing" if route is None else route.model.name
        logger.info("serving %s, revision %s", shown, self._state and self._state.revision)

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
                self._say("")
            except PenstockError as exc:
                self._is_ready = False
                self._say(str(exc))
            except Exception:
                self._is_ready = False
                logger.exception("model keeper")
            self._wake.wait(CHECK_S)
            self._wake.clear()

    def _say(self, trouble: str) -> None:
        """Log a trouble when it begins, changes or ends, not every second."""
        if trouble != self._trouble:
            if trouble:
                logger.warning("model: %s", trouble)
            else:
                logger.info("model: ready again")
            self._trouble = trouble
