"""Online features from Feast, in process: repositories on disk, reads and writes in batches.

One Feast repository per pipeline; its definitions are the pipeline's ``features.py``. Feast is
imported at the first use: the import takes seconds.

One Feast read costs tens of microseconds an entity; asking SQLite whether anybody has committed to
the file costs about one microsecond a batch. So values are cached while ``PRAGMA data_version``
stays the same: any commit of any process empties the cache before the next read, and no value
changed from outside is hidden.

References
----------
SQLite, "PRAGMA data_version": differs after a commit by another connection, in this process or in
another.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing, contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import numpy as np
import yaml
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError, FeatureStoreUnavailable

from penstock_features.arrow_columns import Floats

if TYPE_CHECKING:
    import pandas as pd

ONLINE_DB = "online_store.db"
EVENT_TIME_COLUMN = "event_timestamp"
SQLITE_TIMEOUT_S = 10.0
MAX_ENTITIES = 500_000
"""The cache is emptied when it would hold more."""
Read = Callable[[Sequence[str]], Floats]
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
    """Raise FeatureStoreUnavailable for what Feast and its stores raise when they are away."""
    _import_feast()
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


class SqliteVersion:
    """The version of a SQLite file.

    Parameters
    ----------
    path
        The file; it must be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._stat()
        # Threads: Feast is called on a thread of its own, one call at a time.
        self._connection = sqlite3.connect(path, check_same_thread=False)

    @property
    def is_replaced(self) -> bool:
        """Whether the path names another file now."""
        try:
            return self._stat() != self._identity
        except FileNotFoundError:
            return True

    def current(self) -> int:
        """Return a number that changes with every commit of another connection."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _stat(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino


class OnlineCache:
    """Rows of online features by entity key, of one version of the store.

    Parameters
    ----------
    width
        Features per entity.
    """

    def __init__(self, width: int) -> None:
        self._version: int | None = None
        self._rows: dict[str, int] = {}
        self._values = np.empty((64, width), dtype=np.float64)

    def read(self, keys: Sequence[str], version: int, read: Read) -> Floats:
        """Return the values of entities, shape (keys, width).

        Parameters
        ----------
        keys
            Entity keys, each once.
        version
            Of the store, taken before this call.
        read
            Reads entities from the store; what it returns is at least as new as ``version``.
        """
        if version != self._version or len(self._rows) + len(keys) > MAX_ENTITIES:
            self._rows.clear()
            self._version = version
        rows = self._rows
        missing = [key for key in keys if key not in rows]
        if missing:
            self._add(missing, read(missing))
        values: Floats = self._values[[rows[key] for key in keys]]
        return values

    def _add(self, keys: Sequence[str], values: Floats) -> None:
        start = len(self._rows)
        end = start + len(keys)
        if end > len(self._values):
            more = np.empty((max(end, 2 * len(self._values)), values.shape[1]), dtype=np.float64)
            more[:start] = self._values[:start]
            self._values = more
        self._values[start:end] = values
        self._rows.update(zip(keys, range(start, end), strict=True))


def open_store(repo_dir: Path) -> Any:
    """Return the ``feast.FeatureStore`` of a repository; Feast is imported here, it is slow."""
    _import_feast()
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo_dir))


def apply_definitions(pipeline_dir: Path, repo_dir: Path) -> None:
    """Make the repository in ``repo_dir`` and apply the pipeline's ``features.py`` to it.

    Idempotent: values already stored stay. A ``feature_store.yaml`` that is already there is
    kept, so that another online store can be configured.

    Raises
    ------
    ConfigError
        If ``features.py`` cannot be imported or Feast refuses it.
    """
    repo_dir.mkdir(parents=True, exist_ok=True)
    _write_settings(pipeline_dir.name, repo_dir)
    definitions = pipeline_dir / "features.py"
    store = open_store(repo_dir)
    try:
        store.apply(_feast_objects(definitions))
    except Exception as exc:
        raise ConfigError(f"{definitions}: Feast refuses the definitions: {exc}") from exc
    online = repo_dir / ONLINE_DB
    if online.exists():
        with closing(sqlite3.connect(online, timeout=SQLITE_TIMEOUT_S)) as connection:
            # Readers and the writer then never wait for each other; the mode is kept in the file.
            connection.execute("PRAGMA journal_mode=WAL")


def load_profiles(repo_dir: Path, view: str, frame: pd.DataFrame) -> None:
    """Write a table of latest values into a view, online and as its offline source.

    Parameters
    ----------
    frame
        The join key and the view's features; ``event_timestamp`` is added as now if missing.
    """
    import pandas as pd

    store = open_store(repo_dir)
    feature_view = store.get_feature_view(view)
    if EVENT_TIME_COLUMN not in frame.columns:
        frame = frame.assign(**{EVENT_TIME_COLUMN: pd.Timestamp.now(tz="UTC")})
    path = getattr(feature_view.batch_source, "path", "")
    if path and "://" not in path:
        source = repo_dir / path
        source.parent.mkdir(parents=True, exist_ok=True)
        aside = source.with_suffix(".tmp")
        frame.to_parquet(aside)
        os.replace(aside, source)
    store.write_to_online_store(view, frame)


def _write_settings(pipeline: str, repo_dir: Path) -> None:
    path = repo_dir / "feature_store.yaml"
    if path.exists():
        return
    settings = {
        "project": pipeline.replace("-", "_"),
        "provider": "local",
        "registry": "registry.db",
        "online_store": {"type": "sqlite", "path": ONLINE_DB},
        "entity_key_serialization_version": 3,
    }
    aside = path.with_suffix(".tmp")
    aside.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    os.replace(aside, path)


class _FromSource(SourceFileLoader):
    """Compiles the definitions each time; cached bytecode is matched by second and size only.

    An edit within the second, such as another ttl of as many digits, would be missed. Nor does a
    ``__pycache__`` appear in the pipeline's folder.
    """

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the file as it is now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _feast_objects(definitions: Path) -> list[Any]:
    from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
    from feast.data_source import DataSource

    name = f"penstock_feature_definitions_{definitions.parent.name.replace('-', '_')}"
    loader = _FromSource(name, str(definitions))
    spec = importlib.util.spec_from_file_location(name, definitions, loader=loader)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{definitions}: expected a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Feast reads the source of on-demand views by module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:
        raise ConfigError(f"{definitions}: cannot be imported: {exc!r}") from exc
    kinds = (Entity, FeatureView, FeatureService, OnDemandFeatureView, DataSource)
    return [value for value in vars(module).values() if isinstance(value, kinds)]


def _import_feast() -> None:
    """Import Feast without typeguard's decorator; afterwards plain imports find it.

    Feast decorates its classes with typeguard, which compiles each of them anew: two of the five
    seconds of processor time of the import, in every process, to check Feast's own calls.
    """
    if "feast" in sys.modules:
        return
    import typeguard

    os.environ["FEAST_USAGE"] = "False"  # older releases reported usage unless told otherwise
    with mock.patch.object(typeguard, "typechecked", _unchanged):
        import feast  # noqa: F401


def _unchanged(target: Any = None, **_: Any) -> Any:
    return _unchanged if target is None else target
