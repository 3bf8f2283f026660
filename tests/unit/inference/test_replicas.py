from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from harness.inference import MemoryReports
from harness.waiting import eventually
from penstock_inference import replicas
from penstock_inference.__main__ import main
from penstock_inference.replicas import MOST_ENDED, SILENT_S, UNREAD_S, Heartbeat, Replicas, Report
from penstock_service.metrics import families_of
from prometheus_client import CollectorRegistry, Counter, Gauge


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Fake:
    """A replica that reports when it is told to."""

    store: MemoryReports
    key: str
    pipeline: str = "tiny"
    beat: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.counter = Counter("records", "d", registry=self.registry)
        Gauge("lag", "d", multiprocess_mode="livesum", registry=self.registry).set(5)

    def report(self, is_ready: bool = True, is_closed: bool = False) -> None:
        self.beat += 1
        metrics = families_of(self.registry)
        report = Report(self.pipeline, "node", 7, self.beat, is_ready, is_closed, metrics)
        self.store.put_report(self.key, msgspec.msgpack.encode(report))


@pytest.fixture
def store() -> MemoryReports:
    return MemoryReports()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(store: MemoryReports, clock: Clock) -> Replicas:
    return Replicas(store, clock)


def page(known: Replicas) -> list[str]:
    return known.metrics_page().decode().splitlines()


def test_replica_is_live_while_it_reports(
    store: MemoryReports, known: Replicas, clock: Clock
) -> None:
    ours, silent = Fake(store, "a"), Fake(store, "b")
    ours.report()
    silent.report()
    assert known.read_reports() == []
    assert len(known.live) == 2
    clock.now_s += SILENT_S
    ours.report()
    (gone,) = known.read_reports()
    assert (gone.beat, gone.is_closed) == (1, False)
    assert [r.beat for r in known.live] == [2]
    assert list(store.reports) == ["a"], "what is gone is forgotten"
    assert known.read_reports() == [], "and told once"
    clock.now_s += SILENT_S
    assert len(known.live) == 1, "a reading that takes its time is no silence of replicas"
    clock.now_s += UNREAD_S
    assert known.live == [], "but nobody lives for ever on one reading"


def test_last_report_ends_a_replica_at_once(store: MemoryReports, known: Replicas) -> None:
    ours = Fake(store, "a")
    ours.report()
    known.read_reports()
    ours.report(is_ready=False, is_closed=True)
    assert [r.is_closed for r in known.read_reports()] == [True]
    assert known.live == []


def test_counts_of_ended_replicas_stay_and_their_gauges_go(
    store: MemoryReports, known: Replicas, clock: Clock
) -> None:
    first, second = Fake(store, "a"), Fake(store, "b")
    first.counter.inc(3)
    second.counter.inc(4)
    first.report()
    second.report()
    known.read_reports()
    assert {"records_total 7.0", "lag 10.0"} <= set(page(known))
    clock.now_s += SILENT_S
    second.report()
    known.read_reports()
    assert {"records_total 7.0", "lag 5.0"} <= set(page(known))
    first.counter.inc()
    first.report()  # it was only frozen
    known.read_reports()
    assert {"records_total 8.0", "lag 10.0"} <= set(page(known))


def test_many_ended_replicas_become_one_sum(
    store: MemoryReports, known: Replicas, clock: Clock
) -> None:
    for number in range(3 * MOST_ENDED):
        ours = Fake(store, str(number))
        ours.counter.inc()
        ours.report(is_closed=True)
        known.read_reports()
        assert f"records_total {number + 1}.0" in page(known)
    assert len(known._known.heard) == MOST_ENDED


def test_the_gateway_counts_and_is_no_replica(store: MemoryReports, known: Replicas) -> None:
    gateway, ours = Fake(store, "g", pipeline=""), Fake(store, "a")
    gateway.report()
    ours.report()
    known.read_reports()
    assert "lag 10.0" in page(known)
    expected = [{"pipeline": "tiny", "node": "node", "pid": 7, "ready": True}]
    assert json.loads(known.replicas_page()) == expected


def heard(known: Replicas, told: Callable[[Report], bool]) -> None:
    def read() -> bool:
        known.read_reports()
        return any(told(h.report) for h in known._known.heard.values())

    eventually(read, 10.0, every_s=0.02)


def test_heartbeat_reports_and_survives_a_store_that_is_away(store: MemoryReports) -> None:
    known, ready = Replicas(store), threading.Event()
    registry = CollectorRegistry()
    store.is_away = True
    beats = Heartbeat(store, "tiny", registry, ready.is_set)
    Counter("records", "d", registry=registry).inc()
    store.is_away = False
    heard(known, lambda r: r.pid == os.getpid() and not r.is_ready)
    ready.set()
    heard(known, lambda r: r.is_ready)
    beats.close()
    assert [r.is_closed for r in known.read_reports()] == [True]
    assert "records_total 1.0" in page(known)


def test_scale_is_noted_per_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INFERENCE_RUN_DIR", str(tmp_path))
    assert main(["scale", "a", "2"]) == 0
    assert main(["scale", "b", "3"]) == 0
    assert main(["scale", "a", "1"]) == 0
    assert replicas.wanted_replicas(tmp_path) == {"a": 1, "b": 3}


def test_unreadable_scale_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / replicas.SCALE).write_text("{")
    assert replicas.wanted_replicas(tmp_path) == {}
