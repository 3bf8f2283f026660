from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.models import write_folder
from penstock_inference import replicas
from penstock_inference.deployment import Watch, load_pipelines
from penstock_inference.settings import InferenceSettings
from penstock_schemas.errors import ConfigError


class FakeApplications:
    """What the watch asks of the deployed applications."""

    def __init__(self, run_dir: Path) -> None:
        self.settings = InferenceSettings(run_dir=run_dir)
        self.pipelines: list[Any] = [SimpleNamespace(config=SimpleNamespace(pipeline="tiny"))]
        self.is_running = True
        self.is_away = False

    def apply_scale(self) -> None:
        if self.is_away:
            raise ConnectionError("no head")

    def running(self) -> bool:
        return self.is_running


@pytest.fixture
def applications(tmp_path: Path) -> FakeApplications:
    return FakeApplications(tmp_path)


@pytest.fixture
def watch(applications: FakeApplications) -> Watch:
    return Watch(applications)  # type: ignore[arg-type]


def test_ready_once_a_replica_of_each_pipeline_takes_records(
    watch: Watch, applications: FakeApplications, tmp_path: Path
) -> None:
    watch.turn()
    assert not watch.ready
    ours = replicas.own_facts("tiny")
    replicas.write_replica(tmp_path, ours)
    assert not watch.ready, "it runs and takes no records yet"
    replicas.write_replica(tmp_path, replace(ours, ready=True))
    assert watch.ready
    applications.pipelines.append(SimpleNamespace(config=SimpleNamespace(pipeline="other")))
    assert not watch.ready


def test_file_of_a_dead_replica_is_removed(watch: Watch, tmp_path: Path) -> None:
    dead = replace(replicas.own_facts("tiny"), started_at=1.0, ready=True)
    replicas.write_replica(tmp_path, dead)
    watch.turn()
    assert not watch.ready
    assert not list((tmp_path / replicas.REPLICAS).glob("*.json"))


def test_outage_of_ray_is_not_ready_and_survived(
    watch: Watch, applications: FakeApplications, tmp_path: Path
) -> None:
    replicas.write_replica(tmp_path, replace(replicas.own_facts("tiny"), ready=True))
    watch.turn()
    applications.is_away = True
    watch.turn()
    assert not watch.ready
    assert watch.live, "for a while"
    applications.is_away = False
    watch.turn()
    assert watch.ready


def test_pipeline_named_twice_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    assert len(load_pipelines([folder])) == 1
    with pytest.raises(ConfigError, match="twice"):
        load_pipelines([folder, folder])
