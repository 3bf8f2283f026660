"""Online features from Feast, in process, read and written in batches."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError, FeatureStoreUnavailable

from penstock_features.arrow_columns import Floats
from penstock_features.feast_repo import open_store

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
WRITE_TIMEOUT_S = 30.0


class OnlineStore:
    """Reads and writes one pipeline's online features through the Feast SDK.

    Every read goes to the store: a value changed from outside is in the next read. Opened at the
    first use, so that a repository which is not there yet is an outage and not a failed start.
    Not thread-safe: one object per thread.

    Parameters
    ----------
    repo_dir
        Folder with ``feature_store.yaml``.
    config
        The pipeline; it must have a feast section.
    """

    def __init__(self, repo_dir: Path, config: PipelineConfig) -> None:
        if config.feast is None:
            raise ConfigError(f"pipeline {config.pipeline!r} has no feast section")
        self._repo_dir = repo_dir
        self._feast = config.feast
        self.features = tuple(dict.fromkeys(f.feast for f in config.features if f.feast))
        self._store: Any = None
        self._integer_keys = False
        self._calls = _OneCall(f"feast-{config.pipeline}")

    def read(self, keys: Sequence[str]) -> dict[str, Floats]:
        """Return the online features of entities.

        Parameters
        ----------
        keys
            Entity keys, each once.

        Returns
        -------
        By ``view:feature``, shape (keys,), float64; NaN where the store knows no value.

        Raises
        ------
        FeatureStoreUnavailable
            If the store fails or does not answer within the pipeline's ``feast.timeout_s``.
        """
        if not self.features or not keys:
            return {name: np.empty(len(keys)) for name in self.features}
        columns = self._get(list(self.features), keys)
        return {name: _numeric(columns[name.split(":")[1]], name) for name in self.features}

    def read_states(self, keys: Sequence[str]) -> list[Floats | None]:
        """Return the aggregate state vectors that ingest wrote back; None where there is none."""
        write_back = self._feast.write_back
        if write_back is None or write_back.state is None or not keys:
            return [None] * len(keys)
        columns = self._get([f"{write_back.view}:{write_back.state}"], keys)
        found = columns[write_back.state]
        return [None if v is None else np.asarray(v, dtype=np.float64) for v in found]

    def write(self, view: str, frame: pd.DataFrame) -> None:
        """Write rows (join key, features, event_timestamp) to the online store."""
        with _translated():
            self._calls.run(
                lambda: self._open().write_to_online_store(view, frame), WRITE_TIMEOUT_S
            )

    def _get(self, features: list[str], keys: Sequence[str]) -> Mapping[str, list[Any]]:
        def call() -> Mapping[str, list[Any]]:
            store = self._open()
            entities = [int(k) for k in keys] if self._integer_keys else list(keys)
            rows = {self._feast.entity: entities}
            answer: Mapping[str, list[Any]] = store.get_online_features(
                features=features, entity_rows=rows
            ).to_dict()
            return answer

        with _translated():
            return self._calls.run(call, self._feast.timeout_s)

    def _open(self) -> Any:
        if self._store is None:
            store = open_store(self._repo_dir)
            self._integer_keys = _has_integer_keys(store, self._feast.entity)
            self._store = store
        return self._store


class _OneCall:
    """Runs one call at a time on a thread of its own, so that a caller can stop waiting."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._running: Future[Any] | None = None
        self._lock = threading.Lock()

    def run(self, call: Callable[[], T], timeout_s: float) -> T:
        with self._lock:
            if self._running is not None and not self._running.done():
                raise FeatureStoreUnavailable("Feast: the previous call has not come back yet")
            future: Future[T] = self._pool.submit(call)
            self._running = future
        try:
            return future.result(timeout_s)
        except FutureTimeoutError as exc:
            raise FeatureStoreUnavailable(f"Feast: no answer in {timeout_s} s") from exc


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what Feast and its stores raise when they are away into our error."""
    from feast.errors import FeastError

    try:
        yield
    except FeatureStoreUnavailable:
        raise
    except (sqlite3.Error, OSError, FeastError) as exc:
        raise FeatureStoreUnavailable(f"Feast: {type(exc).__name__}: {exc}") from exc
    except Exception as exc:
        if type(exc).__module__.partition(".")[0] == "redis":  # not installed everywhere
            raise FeatureStoreUnavailable(f"Feast: {type(exc).__name__}: {exc}") from exc
        raise


def _has_integer_keys(store: Any, join_key: str) -> bool:
    from feast import ValueType

    for entity in store.list_entities():
        if entity.join_key == join_key:
            return entity.value_type in (ValueType.INT32, ValueType.INT64)
    raise FeatureStoreUnavailable(f"Feast: no entity with the join key {join_key!r} is applied yet")


def _numeric(values: list[Any], name: str) -> Floats:
    try:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"Feast feature {name!r}: expected a number, got {values[0]!r}") from exc
