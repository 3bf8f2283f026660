"""Latest committed aggregates, written to the online store in batches for other readers.

The stream never depends on it: the online store is not in the transaction, so the aggregates the
stream uses are its own. A write that fails is counted and tried again with the newer values.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import numpy as np
import pandas as pd
from penstock_features.aggregates import LAST_TIME, AggregateLayout, AggregateTable, unpack_into
from penstock_features.online import OnlineStore
from penstock_pipelines.model import FeastSection, WriteBack
from penstock_schemas.errors import ConfigError, FeatureStoreUnavailable
from penstock_streaming.timing import Deadline

from penstock_ingest.metrics import IngestMetrics

logger = logging.getLogger(__name__)

MAX_WAITING = 200_000
"""Entities kept while the online store is away; further ones are dropped and counted."""
ROWS_PER_WRITE = 1_000
"""Feast's write holds the GIL: between small writes the loop's thread can run."""
FINAL_WRITE_S = 2.0
LATEST_MS = 4_102_444_800_000
"""1 January 2100."""


class WriteBackThread:
    """Thread that writes the offered state, latest value per entity, every few seconds.

    Raises
    ------
    ConfigError
        If a field to write is not an aggregate of the pipeline.
    """

    def __init__(
        self,
        feast: FeastSection,
        section: WriteBack,
        layout: AggregateLayout,
        store: OnlineStore,
        metrics: IngestMetrics,
    ) -> None:
        for name in section.fields.values():
            if name not in layout.names:
                known = ", ".join(layout.names) or "none"
                raise ConfigError(
                    f"feast.write_back.fields: {name!r} is no aggregate (there are: {known})"
                )
        self._entity = feast.entity
        self._section = section
        self._layout = layout
        self._store = store
        self._metrics = metrics
        self._waiting: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Write what is waiting, within two seconds, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FINAL_WRITE_S + 1.0)

    def offer(self, keys: Sequence[bytes], payloads: Sequence[bytes]) -> None:
        """Take the latest state of entities; never blocks on the store."""
        with self._lock:
            room = MAX_WAITING - len(self._waiting)
            if len(keys) <= room:
                self._waiting.update(zip(keys, payloads, strict=True))
                return
            for key, payload in zip(keys, payloads, strict=True):
                if key in self._waiting or len(self._waiting) < MAX_WAITING:
                    self._waiting[key] = payload
                else:
                    self._metrics.dropped.inc()

    def write(self, deadline: Deadline | None = None) -> bool:
        """Write what is waiting now; return whether all of it was written."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
        keys = list(taken)
        is_complete = True
        for at in range(0, len(keys), ROWS_PER_WRITE):
            some = keys[at : at + ROWS_PER_WRITE]
            try:
                if deadline is not None and deadline.expired:
                    raise FeatureStoreUnavailable("no time left before the stop")
                self._store.write(self._section.view, self._frame(some, taken))
            except FeatureStoreUnavailable as exc:
                self._failure(logging.WARNING, len(keys) - at, exc)
                with self._lock:  # what came in the meantime is newer
                    self._waiting = {**{key: taken[key] for key in keys[at:]}, **self._waiting}
                return False
            except Exception as exc:  # another attempt would fail too; the stream goes on
                self._failure(logging.ERROR, len(some), exc)
                is_complete = False
            else:
                self._metrics.written.inc(len(some))
        return is_complete

    def _run(self) -> None:
        while not self._stop.wait(self._section.every_s):
            self.write()
        self.write(Deadline(FINAL_WRITE_S))

    def _failure(self, level: int, rows: int, error: Exception) -> None:
        self._metrics.failed.inc(rows)
        view, kind = self._section.view, type(error).__name__
        logger.log(level, "write-back of %d entities to %s: %s: %s", rows, view, kind, error)

    def _frame(self, keys: Sequence[bytes], payloads: dict[bytes, bytes]) -> pd.DataFrame:
        table = AggregateTable(self._layout)
        unpack_into(table, keys, [payloads[key] for key in keys])
        rows = np.arange(len(table))
        values, vectors = table.latest_aggregates(rows), table.vectors(rows)
        columns: dict[str, object] = {self._entity: table.keys(rows)}
        for field, name in self._section.fields.items():
            column = values[:, self._layout.names.index(name)]
            columns[field] = np.where(np.isnan(column), 0.0, column)
        if self._section.state is not None:
            columns[self._section.state] = vectors.tolist()
        # Event times are the producers' own; pandas cannot hold more than the year 2262.
        times = np.clip(vectors[:, LAST_TIME], 0, LATEST_MS).astype(np.int64)
        columns["event_timestamp"] = pd.to_datetime(times, unit="ms", utc=True)
        return pd.DataFrame(columns)
