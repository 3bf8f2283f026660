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
from penstock_features.feast_import import import_feast
from penstock_features.feast_repo import open_store
from penstock_features.online_cache import OnlineCache, SqliteVersion

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
WRITE_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 60.0


class OnlineStore:
    """Reads and writes one pipeline's online features through the Feast SDK.

    A value changed from outside is in the next read: with SQLite what was read is kept only while
    the file has not changed; any other store is read every time. Opened at the first use, so that a
    repository which is not there yet is an outage and not a failed start. Not thread-safe: one
    object per thread.

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
        self._version: SqliteVersion | None = None
        self._cache = OnlineCache(len(self.features))
        self._calls = _OneCall(f"feast-{config.pipeline}")

    def connect(self) -> None:
        """Open the store now, so that the first read does not wait for Feast's slow import.

        Raises
        ------
        FeatureStoreUnavailable
            If it is not there yet; a later read opens it.
        """
        with _translated():
            self._calls.run(self._open, CONNECT_TIMEOUT_S)

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
        with _translated():
            values = self._calls.run(lambda: self._read(keys), self._feast.timeout_s)
        return {name: values[:, i] for i, name in enumerate(self.features)}

    def read_states(self, keys: Sequence[str]) -> list[Floats | None]:
        """Return the aggregate state vectors that ingest wrote back; None where there is none."""
        write_back = self._feast.write_back
        if write_back is None or write_back.state is None or not keys:
            return [None] * len(keys)
        feature = f"{write_back.view}:{write_back.state}"
        with _translated():
            columns = self._calls.run(lambda: self._get([feature], keys), self._feast.timeout_s)
        found = columns[write_back.state]
        return [None if v is None else np.asarray(v, dtype=np.float64) for v in found]

    def write(self, view: str, frame: pd.DataFrame) -> None:
        """Write rows (join key, features, event_timestamp) to the online store."""
        with _translated():
            self._calls.run(
                lambda: self._open().write_to_online_store(view, frame), WRITE_TIMEOUT_S
            )

    def _read(self, keys: Sequence[str]) -> Floats:
        if self._version is not None and self._version.is_replaced:
            self._close()
        self._open()
        try:
            if self._version is None:
                return self._fetch(keys)
            return self._cache.read(keys, self._version.current(), self._fetch)
        except Exception:
            self._close()  # definitions are cached for minutes: the next attempt reads them anew
            raise

    def _fetch(self, keys: Sequence[str]) -> Floats:
        columns = self._get(list(self.features), keys)
        values = np.empty((len(keys), len(self.features)), dtype=np.float64)
        for i, name in enumerate(self.features):
            values[:, i] = _numeric(columns[name.split(":")[1]], name)
        return values

    def _get(self, features: list[str], keys: Sequence[str]) -> Mapping[str, list[Any]]:
        store = self._open()
        entities = [int(k) for k in keys] if self._integer_keys else list(keys)
        answer: Mapping[str, list[Any]] = store.get_online_features(
            features=features, entity_rows={self._feast.entity: entities}
        ).to_dict()
        return answer

    def _open(self) -> Any:
        if self._store is None:
            store = open_store(self._repo_dir)
            self._integer_keys = _has_integer_keys(store, self._feast.entity)
            self._version = _sqlite_version(store, self._repo_dir, self.features)
            self._store = store
        return self._store

    def _close(self) -> None:
        if self._version is not None:
            self._version.close()
        self._store = self._version = None
        self._cache = OnlineCache(len(self.features))


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
    import_feast()
    from feast.errors import FeastError
    from google.protobuf.message import DecodeError  # a registry file that is just being written

    try:
        yield
    except FeatureStoreUnavailable:
        raise
    except (sqlite3.Error, OSError, FeastError, DecodeError) as exc:
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


def _sqlite_version(store: Any, repo_dir: Path, features: Sequence[str]) -> SqliteVersion | None:
    """Return the version of the store's file where values change only by a write to it."""
    online = store.config.online_store
    if online.type != "sqlite":
        return None
    views = {name.split(":")[0] for name in features}
    plain = {view.name: view for view in store.list_feature_views()}
    if any(name not in plain or plain[name].ttl for name in views):
        return None  # computed on demand, or going out of date by itself
    path = Path(online.path)
    path = path if path.is_absolute() else repo_dir / path
    return SqliteVersion(path) if path.exists() else None


def _numeric(values: list[Any], name: str) -> Floats:
    try:
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"Feast feature {name!r}: expected a number, got {values[0]!r}") from exc
