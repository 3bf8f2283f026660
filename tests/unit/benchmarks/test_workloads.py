"""The records and the pipeline are what the contenders take."""

from __future__ import annotations

import io
import json
from pathlib import Path

import fastavro
import latency_probe
import numpy as np
import peer_environments
import pytest
import workloads
from contenders import Place
from peers import SCRIPTS
from penstock_features.online import OnlineStore
from penstock_pipelines.loader import load_pipeline
from penstock_rows import Feast, Variant
from pipeline_folder import write_folder
from profiles import make_store


@pytest.mark.parametrize("schema", [workloads.VECTOR_SCHEMA, workloads.EVENT_SCHEMA])
def test_a_record_is_framed_avro_of_its_schema_whose_id_takes_a_stamp(
    schema: dict[str, object],
) -> None:
    ((key, payload),) = workloads.pool(schema, schema_id=7, size=1)
    stamped = latency_probe.stamped(payload, 41)
    assert payload[:5] == stamped[:5] == b"\0\0\0\0\7"
    record = fastavro.schemaless_reader(
        io.BytesIO(stamped[5:]), fastavro.parse_schema(schema), None
    )
    assert record["entity_id"].encode() == key
    sent_us, number = latency_probe.stamp_of(stamped)
    assert (number, record["event_id"]) == (41, f"{sent_us:016d}{41:016d}")
    assert 170 <= len(payload) <= 190


@pytest.mark.parametrize(
    "variant",
    [
        Variant(commit_ms=20),
        Variant(ingest=True, commit_ms=20),
        Variant(ingest=True, commit_ms=20, feast="kept"),
        Variant(ingest=True, commit_ms=20, feast="read"),
    ],
)
def test_the_pipeline_makes_the_features_the_model_takes(tmp_path: Path, variant: Variant) -> None:
    place = Place("bench.in", "b1.out", "b1-ours")
    folder = tmp_path / place.tag
    write_folder(folder, place, variant)
    config = load_pipeline(folder).config
    assert len(config.feature_names) == workloads.N_FEATURES
    assert config.topic_names.predictions == place.output
    read = config.topic_names.events if variant.ingest else config.topic_names.features
    assert read == place.source
    assert config.batching.commit_interval_ms == 20
    assert bool(config.rules) is variant.ingest
    online = [f.name for f in config.features if f.feast]
    assert len(online) == (len(workloads.PROFILE) if variant.feast else 0)


@pytest.mark.filterwarnings("ignore")  # Feast's dependencies
@pytest.mark.parametrize(("feast", "asked_again"), [("kept", 0), ("read", 1)])
def test_online_features_are_kept_or_read_as_the_row_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feast: Feast, asked_again: int
) -> None:
    from feast import FeatureStore

    monkeypatch.setattr(workloads, "ENTITIES", 20)
    folder = tmp_path / "b1"
    write_folder(folder, Place("bench.in", "b1.out", "b1"), Variant(ingest=True, feast=feast))
    make_store(folder, tmp_path / "store")
    store = OnlineStore(tmp_path / "store", load_pipeline(folder).config)
    keys = [*workloads.entity_ids(), "nobody"]
    before = store.read(keys)
    asked = []
    real = FeatureStore.get_online_features
    monkeypatch.setattr(
        FeatureStore,
        "get_online_features",
        lambda *args, **kwargs: asked.append(args) or real(*args, **kwargs),
    )
    after = store.read(keys)
    assert len(asked) == asked_again
    assert len(after) == len(workloads.PROFILE)
    for name, values in after.items():
        np.testing.assert_array_equal(values, before[name])
        assert np.isfinite(values[:-1]).all()
        assert np.isnan(values[-1])


def test_every_framework_has_a_script_and_a_pinned_release() -> None:
    assert set(SCRIPTS) == set(peer_environments.FRAMEWORKS)
    for peer in SCRIPTS:
        assert all("==" in r or r == "cramjam" for r in peer_environments.requirements(peer))


def test_an_environment_that_is_there_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "quix"
    home.mkdir()
    wanted = [[3, 11], peer_environments.requirements("quix")]
    monkeypatch.setattr(peer_environments.sys, "version_info", (3, 11, 0))
    (home / "complete.json").write_text(json.dumps(wanted))
    monkeypatch.setattr(peer_environments.shutil, "which", lambda *_, **__: None)
    assert peer_environments.interpreter("quix", tmp_path) == home / "bin" / "python"
    with pytest.raises(peer_environments.NoEnvironment, match="no uv"):
        peer_environments.interpreter("faust", tmp_path)
