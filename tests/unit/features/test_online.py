"""The real Feast SDK on SQLite files; nothing here is on a network."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from penstock_features.online import OnlineStore, apply_definitions, load_profiles, open_store
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError, FeatureStoreUnavailable

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64

account = Entity(name="account", join_keys=["account_id"], value_type=ValueType.STRING)

def view(name, *fields):
    source = FileSource(name=name + "_file", path=f"data/{name}.parquet",
                        timestamp_field="event_timestamp")
    return FeatureView(name=name, entities=[account], ttl=timedelta(days=0),
                       schema=list(fields), source=source)

profile = view("profile", Field(name="limit", dtype=Float64))
activity = view("activity", Field(name="n", dtype=Float64), Field(name="mean", dtype=Float64),
                Field(name="state", dtype=Array(Float64)))
"""

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    pipeline, repo = tmp_path / "tiny", tmp_path / "feast"
    pipeline.mkdir()
    (pipeline / "features.py").write_text(DEFINITIONS)
    apply_definitions(pipeline, repo)
    frame = pd.DataFrame({"account_id": ["a", "b"], "limit": [100.0, 200.0]})
    load_profiles(repo, "profile", frame)
    return repo


def test_reads_known_entities_and_nan_for_strangers(repo: Path, config: PipelineConfig) -> None:
    values = OnlineStore(repo, config).read(["b", "stranger", "a"])
    np.testing.assert_array_equal(values["profile:limit"], [200.0, np.nan, 100.0])


def test_value_changed_from_outside_is_in_the_next_read(repo: Path, config: PipelineConfig) -> None:
    store = OnlineStore(repo, config)
    assert store.read(["a", "b"])["profile:limit"].tolist() == [100.0, 200.0]
    now = pd.Timestamp.now(tz="UTC")
    frame = pd.DataFrame({"account_id": ["a"], "limit": [7.0], "event_timestamp": [now]})
    open_store(repo).write_to_online_store("profile", frame)
    assert store.read(["a", "b"])["profile:limit"].tolist() == [7.0, 200.0]


def test_value_changed_by_another_process_is_in_the_next_read(
    repo: Path, config: PipelineConfig
) -> None:
    """The store as seen by any SQLite client: an UPDATE and a DELETE, no SDK of ours involved."""
    store = OnlineStore(repo, config)
    assert store.read(["a", "b"])["profile:limit"].tolist() == [100.0, 200.0]
    script = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
table = [r[0] for r in db.execute("select name from sqlite_master") if r[0].endswith("_profile")][0]
db.execute(f'delete from "{table}" where rowid in (select min(rowid) from "{table}")')
db.commit()
"""
    command = [sys.executable, "-c", script, str(repo / "online_store.db")]
    subprocess.run(command, check=True, timeout=30)
    np.testing.assert_array_equal(store.read(["a", "b"])["profile:limit"], [np.nan, 200.0])


def test_unchanged_store_is_not_read_twice(repo: Path, config: PipelineConfig) -> None:
    store = OnlineStore(repo, config)
    store.read(["a"])
    asked: list[list[str]] = []
    fetch = store._fetch
    store._fetch = lambda keys: (asked.append(list(keys)), fetch(keys))[1]
    for keys in (["a"], ["b", "a"], ["a", "b", "stranger"], ["stranger"]):
        store.read(keys)
    assert asked == [["b"], ["stranger"]]
    assert store.read(["b", "stranger", "a"])["profile:limit"].tolist()[::2] == [200.0, 100.0]


def test_store_replaced_by_another_file_is_opened_anew(repo: Path, config: PipelineConfig) -> None:
    store = OnlineStore(repo, config)
    store.read(["a"])
    online = repo / "online_store.db"
    copy = repo / "copy.db"
    with closing(sqlite3.connect(online)) as old, closing(sqlite3.connect(copy)) as new:
        old.backup(new)
    for path in repo.glob("online_store.db*"):
        path.unlink()
    copy.rename(online)
    now = pd.Timestamp.now(tz="UTC")
    frame = pd.DataFrame({"account_id": ["a"], "limit": [8.0], "event_timestamp": [now]})
    open_store(repo).write_to_online_store("profile", frame)
    assert store.read(["a"])["profile:limit"].tolist() == [8.0]


def test_views_that_expire_are_read_every_time(
    repo: Path, config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    apply_definitions(tmp_path / "tiny", repo)
    expiring = DEFINITIONS.replace("days=0", "days=1")
    (tmp_path / "tiny" / "features.py").write_text(expiring)
    apply_definitions(tmp_path / "tiny", repo)
    store = OnlineStore(repo, config)
    assert store.read(["a"])["profile:limit"].tolist() == [100.0]
    assert store._version is None


def test_state_written_back_is_read_back(repo: Path, config: PipelineConfig) -> None:
    store = OnlineStore(repo, config)
    state = np.array([1.5, 2.5, 1e100])
    frame = pd.DataFrame(
        {
            "account_id": ["a"],
            "n": [1.0],
            "mean": [2.0],
            "state": [state.tolist()],
            "event_timestamp": [pd.Timestamp.now(tz="UTC")],
        }
    )
    store.write("activity", frame)
    known, unknown = store.read_states(["a", "stranger"])
    assert known is not None
    np.testing.assert_array_equal(known, state)
    assert unknown is None


def test_apply_is_idempotent_and_keeps_values(
    repo: Path, config: PipelineConfig, tmp_path: Path
) -> None:
    apply_definitions(tmp_path / "tiny", repo)
    assert OnlineStore(repo, config).read(["a"])["profile:limit"].tolist() == [100.0]


def test_offline_source_is_written_beside(repo: Path) -> None:
    assert set(pd.read_parquet(repo / "data/profile.parquet")["account_id"]) == {"a", "b"}


def test_repository_not_there_yet_is_an_outage_that_ends(
    repo: Path, config: PipelineConfig, tmp_path: Path
) -> None:
    later = tmp_path / "later"
    store = OnlineStore(later, config)
    with pytest.raises(FeatureStoreUnavailable):
        store.read(["a"])
    repo.rename(later)
    assert store.read(["a"])["profile:limit"].tolist() == [100.0]


def test_view_that_is_not_applied_is_an_outage(
    repo: Path, config: PipelineConfig, tmp_path: Path
) -> None:
    features = (*config.features[:-1], config.features[-1].model_copy(update={"feast": "gone:x"}))
    store = OnlineStore(repo, config.model_copy(update={"features": features}))
    with pytest.raises(FeatureStoreUnavailable):
        store.read(["a"])


def test_definitions_applied_after_the_start_are_found(
    repo: Path, config: PipelineConfig, tmp_path: Path
) -> None:
    registry = repo / "registry.db"
    whole = registry.read_bytes()
    pipeline = tmp_path / "tiny"
    (pipeline / "features.py").write_text(DEFINITIONS.replace('"profile"', '"other"'))
    registry.unlink()
    apply_definitions(pipeline, repo)
    store = OnlineStore(repo, config)
    with pytest.raises(FeatureStoreUnavailable):
        store.read(["a"])
    registry.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureStoreUnavailable):
        store.read(["a"])
    (pipeline / "features.py").write_text(DEFINITIONS)
    registry.unlink()
    apply_definitions(pipeline, repo)
    load_profiles(repo, "profile", pd.DataFrame({"account_id": ["a"], "limit": [5.0]}))
    assert store.read(["a"])["profile:limit"].tolist() == [5.0]


def test_damaged_store_is_an_outage(repo: Path, config: PipelineConfig) -> None:
    (repo / "online_store.db").write_bytes(b"not a database, much longer than a header" * 100)
    with pytest.raises(FeatureStoreUnavailable):
        OnlineStore(repo, config).read(["a"])


def test_slow_store_is_given_up_and_not_piled_upon(repo: Path, config: PipelineConfig) -> None:
    feast = config.feast.model_copy(update={"timeout_s": 0.05})
    store = OnlineStore(repo, config.model_copy(update={"feast": feast}))
    gate = threading.Event()
    store._open = gate.wait
    try:
        with pytest.raises(FeatureStoreUnavailable, match="no answer"):
            store.read(["a"])
        with pytest.raises(FeatureStoreUnavailable, match="previous call"):
            store.read(["a"])
    finally:
        gate.set()


def test_definitions_that_do_not_import_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match=r"features\.py"):
        apply_definitions(tmp_path, tmp_path / "feast")
