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
from typing import Final

from penstock_pipelines.model import PipelineConfig
from penstock_registry.schema_registry import RegistryClient
from penstock_routing.topic import RoutingTopic
from penstock_schemas.errors import ModelUnavailable, PenstockError, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_streaming.settings import KafkaSettings

from penstock_inference.model_loader import ModelLoader
from penstock_inference.model_server import ModelServer, ServedModel
from penstock_inference.scoring import ServingState
from penstock_inference.traffic_split import (
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

logger = logging.getLogger(__name__)

CHECK_S: Final = 1.0
"""Time between two looks at the served model, seconds."""
JOIN_S: Final = 5.0

Follow = Callable[[threading.Event, Callable[[RoutingState], None]], None]
"""Calls back with each routing state, the present one first, until the event is set."""


class ModelManager:
    """Brings one pipeline's versions and routes to the newest routing state, in two threads.

    Parameters
    ----------
    follow
        Reads the routing topic.
    server
        The model server.
    serving_state
        Is brought to the newest routing state.
    width, max_rows
        Number of features of the pipeline, and most rows of a call that it allows.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        follow: Follow,
        server: ModelServer,
        serving_state: ServingState,
        *,
        width: int,
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.serving = serving_state
        self._follow = follow
        self._loader = ModelLoader(
            server,
            serving_state.samples,
            serving_state.suspects,
            width=width,
            max_rows=max_rows,
            clock=clock,
        )
        self._stop = threading.Event()
        self._state: RoutingState | None = None
        self._canaries: list[ModelVersion] = []
        self._is_ready = False
        self._log = LogOnce()
        self._threads = [
            threading.Thread(target=self._run_follower, name="routing-topic", daemon=True),
            threading.Thread(target=self._run_keeper, name="model-keeper", daemon=True),
        ]

    @classmethod
    def of_pipeline(
        cls,
        config: PipelineConfig,
        kafka: KafkaSettings,
        registry: RegistryClient,
        server: ModelServer,
        serving_state: ServingState,
    ) -> ModelManager:
        """Return the manager of a pipeline's routing topic, not started."""
        topic = RoutingTopic(kafka, registry, config.topic_names.models, config.pipeline)
        return cls(
            topic.follow,
            server,
            serving_state,
            width=len(config.feature_names),
            max_rows=config.model.max_batch_rows,
        )

    @property
    def champion(self) -> Route | None:
        """The champion's route now; None while nothing serves."""
        table = self.serving.table
        return None if table is None else table.champion

    @property
    def routing_state(self) -> RoutingState | None:
        """The newest routing state seen."""
        return self._state

    @property
    def ready(self) -> bool:
        """Whether the ordered champion answered the last time it was asked."""
        return self._is_ready and self.serving.table is not None

    def start_threads(self) -> None:
        """Follow the routing topic and keep its versions loaded."""
        for thread in self._threads:
            thread.start()

    def stop_threads(self) -> None:
        """Stop the threads and wait for them a moment."""
        self._stop.set()
        self.serving.wake.set()
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
        table = self.serving.table
        for route in () if table is None else table.routes:
            if route.version.version == version:
                return route
        found = named(self._state, version)
        if found is None:
            return None
        return Route(found, self._loader.describe(found), variant_of(found))

    def take_routing_state(self, state: RoutingState) -> None:
        """Take a routing state; an older revision than the known one is ignored."""
        if is_newer(state, self._state):
            self._state = state
            self.serving.wake.set()

    def reconcile(self) -> None:
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
        self._loader.heal(wanted)
        model = self._loader.known(wanted)
        if model is None:
            # While another version is loaded the old one answers; without its own it does not.
            if self._serves(wanted):
                self._is_ready = False
                # Without traffic no call tells the circuit.
                name = wanted.served_as
                lost = ModelUnavailable(f"{name} is not ready")
                self.serving.breakers.record_failure(name, lost)
            model = self._loader.load(wanted)
        self._is_ready = self._champion_answers(model)
        loaded = {wanted.served_as: model}
        candidates = [*canaries(state), *shadows(state)]
        for version in candidates:
            canary = self._loader.canary(version, model)
            if canary is not None:
                loaded[version.served_as] = canary
        self._swap(route_table(state, loaded))
        self._loader.forget_all_but([wanted, *candidates])
        self._show_canaries(candidates)

    def _champion_answers(self, model: ServedModel) -> bool:
        """Return whether its circuit is closed; sends the probe, aside from the stream, if due."""
        breakers, name = self.serving.breakers, model.name
        if not breakers.is_closed(name) and breakers.allow_call(name):
            error = self._loader.probe(model, self.serving.samples.sample(1, model.width))
            if error is None:
                breakers.record_success(name)
            else:
                breakers.record_failure(name, error)
        return breakers.is_closed(name)

    def _show_canaries(self, candidates: list[ModelVersion]) -> None:
        """Show and log which canaries take no traffic, and why."""
        for version in {*self._canaries, *candidates}:
            trouble = self._loader.troubles.get(version.served_as, "")
            self.serving.metrics.canary_out(version, bool(trouble))
            self._log.log_trouble(f"canary {version.served_as}", trouble)
        self._canaries = candidates

    def _serves(self, version: ModelVersion) -> bool:
        champion = self.champion
        return champion is not None and champion.version.served_as == version.served_as

    def _swap(self, table: RouteTable | None) -> None:
        if table == self.serving.table:
            return
        self.serving.swap_table(table)
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
                self._follow(self._stop, self.take_routing_state)
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
                self.reconcile()
                self._log.log_trouble("model", "")
            except PenstockError as exc:
                self._is_ready = False
                self._log.log_trouble("model", str(exc))
            except Exception:
                self._is_ready = False
                logger.exception("model keeper")
            self.serving.wake.wait(CHECK_S)
            self.serving.wake.clear()


class LogOnce:
    """Logs a trouble when it begins, changes or ends, not every second. Not thread-safe."""

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}

    def log_trouble(self, what: str, trouble: str) -> None:
        """Log a trouble, or with an empty one its end, if that is new."""
        if trouble == self._troubles.get(what, ""):
            return
        if trouble:
            self._troubles[what] = trouble
            logger.warning("%s: %s", what, trouble)
        else:
            del self._troubles[what]
            logger.info("%s: no trouble any more", what)
