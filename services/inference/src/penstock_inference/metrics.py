"""What the service counts and times beyond the loop's own metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from penstock_schemas.records import ModelVersion
from penstock_service.metrics import LATENCY_BUCKETS
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock_inference.circuit_breaker import STATES, BreakerState
from penstock_inference.traffic_split import Route, RouteTable

Stage = Literal["decode", "infer", "encode"]


class InferenceMetrics:
    """Metrics of one pipeline in one process.

    Parameters
    ----------
    registry
        Where they are exposed; several pipelines of one process share a `InferenceFamilies`.
    """

    def __init__(self, families: InferenceFamilies, pipeline: str) -> None:
        self._families = families
        self._pipeline = pipeline
        self.isolations = families.isolations.labels(pipeline)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time a block."""
        start = perf_counter()
        try:
            yield
        finally:
            self._families.stage.labels(self._pipeline, name).observe(perf_counter() - start)

    def predicted(self, route: Route, rows: int) -> None:
        """Count predictions of a version."""
        self._families.predictions.labels(self._pipeline, *_labels(route)).inc(rows)

    def expired(self, rows: int) -> None:
        """Count events that were too old for an answer."""
        self._families.expired.labels(self._pipeline).inc(rows)

    def shadow_dropped(self, reason: str, rows: int) -> None:
        """Count rows that were to be shown to a shadow, or its answers, and were dropped."""
        self._families.shadow_dropped.labels(self._pipeline, reason).inc(rows)

    def fell_back(self, canary: Route, rows: int) -> None:
        """Count rows of a canary's keys that the champion answered."""
        version = canary.version
        self._families.fallbacks.labels(self._pipeline, version.model_name, version.version).inc(
            rows
        )

    def deadline_hit(self, route: Route) -> None:
        """Count a call that a version let wait for its whole deadline."""
        version = route.version
        labels = (self._pipeline, version.model_name, version.version)
        self._families.deadline_hits.labels(*labels).inc()

    def breaker(self, version: ModelVersion, state: BreakerState) -> None:
        """Show the state of a version's circuit."""
        labels = (self._pipeline, version.model_name, version.version)
        for each in STATES:
            self._families.breaker.labels(*labels, each).set(int(each == state))

    def canary_out(self, version: ModelVersion, is_out: bool) -> None:
        """Show whether a canary takes no traffic though it should."""
        labels = (self._pipeline, version.model_name, version.version)
        self._families.canary_out.labels(*labels).set(int(is_out))

    def serving(self, table: RouteTable | None, previous: RouteTable | None) -> None:
        """Show which versions serve, and for which share of the keys."""
        shown: dict[tuple[str, str, str], float] = {}
        for route in () if previous is None else previous.routes:
            shown[_labels(route)] = 0.0
        if table is not None:
            for route, weight in zip(table.routes, table.weights, strict=True):
                shown[_labels(route)] = weight
        for labels, weight in shown.items():
            self._families.weight.labels(self._pipeline, *labels).set(weight)


def _labels(route: Route) -> tuple[str, str, str]:
    return route.version.model_name, route.version.version, route.variant


class InferenceFamilies:
    """The metric families; one object per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage = Histogram(
            "penstock_inference_stage_seconds",
            "Time per batch by stage: decode, infer (waiting for the model), encode.",
            ["pipeline", "stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.predictions = Counter(
            "penstock_predictions_total",
            "Predictions by model version and variant.",
            ["pipeline", "model", "version", "variant"],
            registry=registry,
        )
        self.expired = Counter(
            "penstock_predictions_expired_total",
            "Events older than batching.deadline_ms: the model was not asked about them.",
            ["pipeline"],
            registry=registry,
        )
        self.shadow_dropped = Counter(
            "penstock_shadow_rows_dropped_total",
            "Rows not shown to a shadow version, or its answers not produced: queue (it is behind),"
            " model (it is away or fails), delivery.",
            ["pipeline", "reason"],
            registry=registry,
        )
        self.isolations = Counter(
            "penstock_inference_isolations_total",
            "AdaptiveBatcher searched for the rows that the model fails on.",
            ["pipeline"],
            registry=registry,
        )
        self.weight = Gauge(
            "penstock_served_weight_percent",
            "Share of the keys that a model version answers, percent; 0 once it does not any more.",
            ["pipeline", "model", "version", "variant"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.fallbacks = Counter(
            "penstock_inference_canary_fallbacks_total",
            "Rows of a canary's keys that the champion answered, because the canary did not.",
            ["pipeline", "model", "version"],
            registry=registry,
        )
        self.canary_out = Gauge(
            "penstock_inference_canary_out",
            "1 while a canary does not load or does not fit, and the champion has its keys.",
            ["pipeline", "model", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.deadline_hits = Counter(
            "penstock_model_deadline_hits_total",
            "Calls that a model version let wait for their whole deadline.",
            ["pipeline", "model", "version"],
            registry=registry,
        )
        self.breaker = Gauge(
            "penstock_model_breaker_state",
            "1 for the state that the circuit of a model version is in: closed, open (no call is "
            "sent), half_open (one is, to see).",
            ["pipeline", "model", "version", "state"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.requests = Counter(
            "penstock_gateway_requests_total",
            "Requests of the gateway by status code.",
            ["pipeline", "route", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "penstock_gateway_seconds",
            "Time of a request within the gateway.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.unpublished = Counter(
            "penstock_gateway_predictions_dropped_total",
            "Predictions answered but not produced: the queue was full or delivery failed.",
            ["pipeline"],
            registry=registry,
        )
