"""Shadow versions: shown rows after others have answered them, in a thread of their own.

Best effort throughout: a shadow that is slow, away or wrong loses rows, which are counted, and
nothing else waits for it. Its predictions go to a topic of their own, at most once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from penstock_routing.states import BUCKETS, buckets
from penstock_schemas.errors import PenstockError

from penstock_inference.circuit_breaker import BESIDE, CircuitBreakers
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import INPUT, Matrix, ModelServer
from penstock_inference.predictions import AnsweredBy, Signature, Vectors, prediction_columns
from penstock_inference.publisher import PredictionPublisher
from penstock_inference.settings import ShadowSettings
from penstock_inference.tensors import Rows, finite_scores
from penstock_inference.traffic_split import Route, RouteTable

logger = logging.getLogger(__name__)

SLICE_ROWS: Final = 256
"""Rows encoded and produced in one go: the loop's thread waits for this one's turn to end."""
YIELD_S: Final = 0.0005
JOIN_S: Final = 2.0
WAKE_S: Final = 0.5
SHADOW_TIMEOUT_S: Final = 2.0
"""Longest deadline of a call to a shadow, seconds."""


@dataclass(frozen=True, slots=True)
class ShownRows:
    """Rows that have been answered, and who else is to see them.

    Parameters
    ----------
    table
        Names the shadows.
    vectors
        n rows.
    keys, partitions
        Of each row's record.
    """

    table: RouteTable
    vectors: Vectors
    keys: Sequence[bytes | None]
    partitions: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.vectors)

    def keep(self, rows: Rows) -> ShownRows:
        """Return some of the rows."""
        keys = [self.keys[row] for row in rows.tolist()]
        return ShownRows(self.table, self.vectors.keep(rows), keys, self.partitions[rows])

    def share(self, percent: int) -> ShownRows:
        """Return the rows of ``percent`` of the keys; those without a key belong to all."""
        if percent >= 100:
            return self
        # A salt of its own: the keys shown are no canary's keys.
        found = buckets(self.keys, f"{self.table.pipeline}/shadow")
        return self.keep(np.flatnonzero(found < percent * BUCKETS // 100))


class Shadows:
    """Shows rows to the shadow versions of one pipeline.

    Parameters
    ----------
    settings
        How much is shown, and how much may wait.
    server
        The model server.
    connect
        Makes the publisher of the answers, once there are some.
    signature
        What is put on each prediction.
    metrics
        Counts answers and drops.
    breakers
        The circuits of the pipeline's models.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        server: ModelServer,
        connect: Callable[[], PredictionPublisher],
        signature: Signature,
        metrics: InferenceMetrics,
        breakers: CircuitBreakers,
    ) -> None:
        self._settings = settings
        self._server = server
        self._connect = connect
        self._publisher: PredictionPublisher | None = None
        self._signature = signature
        self._metrics = metrics
        self._breakers = breakers
        self._queue: deque[ShownRows] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadows", daemon=True)

    def start_thread(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop_thread(self) -> None:
        """Drop what waits and end the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)
        if self._publisher is not None:
            self._publisher.close()

    def offer_rows(self, shown: ShownRows) -> None:
        """Queue rows for the shadows, or drop them where too many wait; returns at once."""
        with self._lock:
            has_room = self._rows + len(shown) <= self._settings.queue_rows
            if has_room:
                self._queue.append(shown)
                self._rows += len(shown)
        if has_room:
            self._wake.set()
        else:
            self._metrics.shadow_dropped("queue", len(shown))

    def show_rows(self, shown: ShownRows) -> None:
        """Ask every shadow and produce what it answers; called by the thread."""
        part = shown.share(self._settings.percent)
        if not len(part):
            return
        for route in shown.table.shadows:
            scores = self._asked(route, part.vectors.matrix)
            if scores is None:
                self._metrics.shadow_dropped("model", len(part))
                continue
            bad = [row for row, _ in finite_scores(scores)]
            if bad:
                self._metrics.shadow_dropped("model", len(bad))
            good = np.delete(np.arange(len(part)), bad)
            for at in range(0, len(good), SLICE_ROWS):
                rows = good[at : at + SLICE_ROWS]
                self._publish(route, part.keep(rows), scores[rows])
                self._stop.wait(YIELD_S)
            self._metrics.predicted(route, len(good))

    def _asked(self, route: Route, matrix: Matrix) -> Matrix | None:
        name = route.model.name
        if not self._breakers.allow_call(name):
            return None
        try:
            scores = self._server.infer(route.model, {INPUT: matrix}, SHADOW_TIMEOUT_S)
        except PenstockError as exc:
            # Even what would be fatal of a champion is only the end of this try.
            self._breakers.record_failure(name, exc, BESIDE)
            return None
        self._breakers.record_success(name)
        return scores

    def _publish(self, route: Route, part: ShownRows, scores: Matrix) -> None:
        by = AnsweredBy((route,))
        now_ms = time.time_ns() // 1_000_000
        columns = prediction_columns(part.vectors, scores, by, self._signature, now_ms)
        if self._publisher is None:
            self._publisher = self._connect()
        self._publisher.publish(columns, part.keys, part.partitions)

    def _taken(self) -> ShownRows | None:
        with self._lock:
            if not self._queue:
                self._wake.clear()
                return None
            shown = self._queue.popleft()
            self._rows -= len(shown)
            return shown

    def _run(self) -> None:
        while not self._stop.is_set():
            shown = self._taken()
            if shown is None:
                self._wake.wait(WAKE_S)
                continue
            try:
                self.show_rows(shown)
            except Exception:
                # Without this thread shadows would be blind for ever, and nobody would notice.
                logger.exception("shadows")
                self._metrics.shadow_dropped("model", len(shown))
                self._stop.wait(WAKE_S)
