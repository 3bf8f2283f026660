from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from harness.inference import MemoryReports
from harness.models import write_folder
from penstock_inference.deployment import Watch, load_pipelines
from penstock_inference.replicas import Replicas, Report
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
def store() -> MemoryReports:
    return MemoryReports()


@pytest.fixture
def watch(applications: FakeApplications, store: MemoryReports) -> Watch:
    return Watch(applications, Replicas(store))  # type: ignore[arg-type]


def report(store: MemoryReports, beat: int, is_ready: bool, is_closed: bool = False) -> None:
    told = Report("tiny", "node", 7, beat, is_ready, is_closed, [])
    store.put_report("a", msgspec.msgpack.encode(told))


def test_ready_once_a_replica_of_each_pipeline_takes_records(
    watch: Watch, applications: FakeApplications, store: MemoryReports
) -> None:
    watch.turn()
    assert not watch.ready
    report(store, 1, is_ready=False)
    watch.turn()
    assert not watch.ready, "it runs and takes no records yet"
    report(store, 2, is_ready=True)
    watch.turn()
    assert watch.ready
    applications.pipelines.append(SimpleNamespace(config=SimpleNamespace(pipeline="other")))
    assert not watch.ready


def test_report_of_a_replica_that_is_gone_is_removed(watch: Watch, store: MemoryReports) -> None:
    report(store, 1, is_ready=True, is_closed=True)
    watch.turn()
    assert not watch.ready
    assert not store.reports


def test_outage_of_ray_is_not_ready_and_survived(
    watch: Watch, applications: FakeApplications, store: MemoryReports
) -> None:
    report(store, 1, is_ready=True)
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
