"""What the service counts and times beyond the loop's own metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from penstock_telemetry.metrics import LATENCY_BUCKETS
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock_inference.routing import Route

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
        version = route.version
        self._families.predictions.labels(
            self._pipeline, version.model_name, version.version, route.variant
        ).inc(rows)

    def serving(self, route: Route | None, previous: Route | None) -> None:
        """Show which version serves."""
        for shown, weight in ((previous, 0), (route, route.version.weight if route else 0)):
            if shown is not None:
                self._families.weight.labels(
                    self._pipeline, shown.version.model_name, shown.version.version
                ).set(weight)


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
        self.isolations = Counter(
            "penstock_inference_isolations_total",
            "Batches searched for the rows that the model fails on.",
            ["pipeline"],
            registry=registry,
        )
        self.weight = Gauge(
            "penstock_served_weight_percent",
            "Share of keys of a model version, percent.",
            ["pipeline", "model", "version"],
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
