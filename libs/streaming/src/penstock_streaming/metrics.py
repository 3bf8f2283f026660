"""What the loop counts and times. The registry is passed in; labels come from a fixed list.

One `LoopMetrics` per process serves all its loops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Literal

from penstock_service.metrics import LATENCY_BUCKETS
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Stage = Literal["consume", "columns", "submit", "produce", "commit", "restore"]

_ROWS = (1, 4, 16, 64, 256, 1024, 2048, 4096, 8192, 16384)
_RATIO = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


class LoopMetrics:
    """Metrics of the Kafka loop.

    Parameters
    ----------
    registry
        Where they are exposed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        topic = ["topic"]
        self.records = Counter(
            "penstock_records_total",
            "Input records by terminal outcome: output, dead_letter or the reason of a skip.",
            [*topic, "outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "penstock_dead_letters_total",
            "Dead letters by class.",
            [*topic, "class"],
            registry=registry,
        )
        self.batches_closed = Counter(
            "penstock_batches_closed_total",
            "Batches by what closed them: full, drained (nothing more had arrived), or suspect "
            "(a slice of what a killed worker had in flight).",
            [*topic, "reason"],
            registry=registry,
        )
        self.batch_rows = Histogram(
            "penstock_batch_rows",
            "Records handed to the handler at once.",
            topic,
            buckets=_ROWS,
            registry=registry,
        )
        self.batch_fill = Histogram(
            "penstock_batch_fill_ratio",
            "Rows of a batch over the largest allowed.",
            topic,
            buckets=_RATIO,
            registry=registry,
        )
        self.stage = Histogram(
            "penstock_stage_seconds",
            "Time of the loop's thread per batch or transaction, by stage.",
            [*topic, "stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.latency = Histogram(
            "penstock_commit_latency_seconds",
            "From the timestamp of a batch's first record to its commit.",
            topic,
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.transactions = Counter(
            "penstock_transactions_total",
            "Transactions by result: committed, aborted, or producer re-created.",
            [*topic, "result"],
            registry=registry,
        )
        self.retries = Counter(
            "penstock_retries_total",
            "Attempts put off because a dependency was away, by error.",
            [*topic, "error_type"],
            registry=registry,
        )
        self.rebalances = Counter(
            "penstock_rebalances_total",
            "Rebalances by kind: assigned, revoked, lost, rejoined.",
            [*topic, "kind"],
            registry=registry,
        )
        self.reloads = Counter(
            "penstock_config_reloads_total",
            "Edits of pipeline.yaml that were read, by result: applied, or refused and logged.",
            ["pipeline", "result"],
            registry=registry,
        )
        self._gauges(registry)

    def observe(self, topic: str, stage: Stage, seconds: float) -> None:
        """Count a measured time."""
        self.stage.labels(topic, stage).observe(seconds)

    def _gauges(self, registry: CollectorRegistry) -> None:
        self.in_flight = Gauge(
            "penstock_in_flight_batches",
            "Batches submitted and not finished.",
            ["topic"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.breaker_open = Gauge(
            "penstock_breaker_open",
            "1 while a dependency is away and the partitions are paused.",
            ["topic"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.dead_letter_breaker = Gauge(
            "penstock_dead_letter_breaker_open",
            "1 while a partition is closed because it leaves too many dead letters.",
            ["topic", "partition"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.lag = Gauge(
            "penstock_lag_records",
            "Last stable offset minus committed offset.",
            ["topic", "partition"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.drain = Gauge(
            "penstock_drain_seconds",
            "Time until the lag is gone at the present rates.",
            ["topic", "partition"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    @contextmanager
    def timed(self, topic: str, stage: Stage) -> Iterator[None]:
        """Time a block."""
        start = perf_counter()
        try:
            yield
        finally:
            self.stage.labels(topic, stage).observe(perf_counter() - start)
