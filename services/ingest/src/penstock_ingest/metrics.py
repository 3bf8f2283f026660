"""Metrics of ingest beyond those of the loop; the registry is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from penstock_service.metrics import LATENCY_BUCKETS
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Stage = Literal["decode", "validate", "online", "aggregate", "encode"]


class IngestMetrics:
    """Metrics of one pipeline.

    Parameters
    ----------
    families
        The process's metric families.
    pipeline
        Value of the label.
    """

    def __init__(self, families: IngestFamilies, pipeline: str) -> None:
        self._stage = families.stage
        self._pipeline = pipeline
        self.entities = families.entities.labels(pipeline)
        self.restored = families.restored.labels(pipeline)
        self.ignored = families.ignored.labels(pipeline)
        self.written = families.write_back.labels(pipeline, "written")
        self.failed = families.write_back.labels(pipeline, "failed")
        self.dropped = families.write_back.labels(pipeline, "dropped")

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time a block as a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self._stage.labels(self._pipeline, stage).observe(perf_counter() - start)


class IngestFamilies:
    """The metric families, once per process.

    Parameters
    ----------
    registry
        Where they are exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["pipeline"]
        self.stage = Histogram(
            "penstock_ingest_stage_seconds",
            "Time per batch by stage of the pipeline.",
            [*label, "stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.entities = Gauge(
            "penstock_ingest_entities",
            "Entities with aggregates in the assigned partitions.",
            label,
            registry=registry,
        )
        self.restored = Counter(
            "penstock_ingest_state_restored_total",
            "Entities whose aggregates were restored from the changelog.",
            label,
            registry=registry,
        )
        self.ignored = Counter(
            "penstock_ingest_state_ignored_total",
            "Entities in the changelog left aside: written under another pipeline.yaml.",
            label,
            registry=registry,
        )
        self.write_back = Counter(
            "penstock_ingest_write_back_total",
            "Entities handed to the online store, by outcome: written, failed, dropped.",
            [*label, "outcome"],
            registry=registry,
        )
