"""Feast repositories on disk: their settings file, their definitions, their first values.

One repository per pipeline. The definitions are the pipeline's ``features.py``.
"""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import sys
from contextlib import closing
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import yaml
from penstock_schemas.errors import ConfigError

from penstock_features.feast_import import import_feast

if TYPE_CHECKING:
    import pandas as pd

ONLINE_DB = "online_store.db"
EVENT_TIME_COLUMN = "event_timestamp"
SQLITE_TIMEOUT_S = 10.0


def open_store(repo_dir: Path) -> Any:
    """Return the ``feast.FeatureStore`` of a repository; Feast is imported here, it is slow."""
    import_feast()
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
            # Readers and the writer then never wait for each other. The file remembers it.
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
    """Compiles the definitions each time: bytecode is told apart by second and size only.

    An edit within the second, such as another ttl of as many digits, would be missed; and a
    pipeline's folder stays free of what is not its user's.
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
