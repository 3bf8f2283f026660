"""The real router in a process of its own, with one guarantee or duty of it taken away.

It shows what each costs: BENCH_WITHOUT names what is left out, a comma between them: ``metrics``
(nothing is counted or timed), ``journal`` (no record is ever found to be poison), ``prediction``
(four fields instead of a whole Prediction). Settings are the service's own.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Final

LOOK_S: Final = 0.2
MINIMAL: Final = """{"type": "record", "name": "Prediction", "namespace": "bench", "fields": [
    {"name": "event_id", "type": "string"}, {"name": "model", "type": "string"},
    {"name": "score", "type": "float"}, {"name": "ts", "type": "long"}]}"""


def without_metrics() -> None:
    """Make every metric's child itself, and counting nothing."""
    from prometheus_client import Counter, Gauge, Histogram
    from prometheus_client.metrics import MetricWrapperBase

    def itself(self: Any, *_: Any, **__: Any) -> Any:
        return self

    def nothing(self: Any, *_: Any, **__: Any) -> None:
        return None

    _replace(MetricWrapperBase, "labels", itself)
    for kind, names in (
        (Counter, ("inc",)),
        (Gauge, ("inc", "dec", "set")),
        (Histogram, ("observe",)),
    ):
        for name in names:
            _replace(kind, name, nothing)


def without_journal() -> None:
    """Note nothing of what is in flight."""
    from penstock_streaming.poison import FlightJournal

    def nothing(self: FlightJournal, ranges: Any) -> None:
        return None

    _replace(FlightJournal, "record", nothing)


def without_prediction() -> None:
    """Write the bare loop's four fields."""
    import pyarrow as pa
    from penstock_inference import router, stream

    text_of = router.schema_text

    def schema_text(name: str) -> str:
        return MINIMAL if name == "prediction.avsc" else text_of(name)

    def columns(vectors: Any, scores: Any, by: Any, signature: Any, now: int, *_: Any) -> Any:
        rows = len(vectors)
        return pa.RecordBatch.from_pydict(
            {
                "event_id": vectors.event_id,
                "model": pa.repeat(signature.pipeline, rows),
                "score": pa.array(scores[:, 0]),
                "ts": pa.repeat(pa.scalar(now, pa.int64()), rows),
            }
        )

    _replace(router, "schema_text", schema_text)
    _replace(stream, "prediction_columns", columns)


def _replace(module: Any, name: str, value: Any) -> None:
    """Put ``value`` in place of what is there; a name that has moved must not go unnoticed."""
    getattr(module, name)
    setattr(module, name, value)


WITHOUT: Final = {
    "metrics": without_metrics,
    "journal": without_journal,
    "prediction": without_prediction,
}


class Reports(dict[str, bytes]):
    """Where the router reports itself, in this process."""

    def put_report(self, key: str, report: bytes) -> None:
        """Keep a report."""
        self[key] = report

    def all_reports(self) -> dict[str, bytes]:
        """Return what is kept."""
        return dict(self)

    def delete_report(self, key: str) -> None:
        """Forget a report."""
        del self[key]


def main() -> int:
    """Run the router until SIGTERM; 1 if its loop ends by itself."""
    for name in filter(None, os.environ.get("BENCH_WITHOUT", "").split(",")):
        WITHOUT[name]()
    from penstock_inference.replicas import Replicas
    from penstock_inference.router import Router
    from penstock_inference.settings import load_settings
    from penstock_pipelines.loader import load_pipeline
    from penstock_service.command import on_stop
    from penstock_service.health import serve_health

    stop = threading.Event()
    on_stop(stop.set)
    settings = load_settings()
    replicas = Replicas(Reports())
    router = Router(settings, load_pipeline(settings.pipelines[0]), replicas.store)
    pages = {"/replicas": replicas.replicas_page}
    host, port = settings.metrics_host, settings.metrics_port
    try:
        with serve_health(host, port, lambda: True, lambda: True, replicas.metrics_page, pages):
            while not stop.wait(LOOK_S):
                replicas.read_reports()
                router.check_health()
    except RuntimeError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    finally:
        router.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
