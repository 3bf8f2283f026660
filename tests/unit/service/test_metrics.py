from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from penstock_service.metrics import (
    LATENCY_BUCKETS,
    multiprocess_exposition,
    prepare_multiprocess,
)

WRITER = """
import sys
from prometheus_client import Counter, Gauge, Histogram
from penstock_service.metrics import LATENCY_BUCKETS
Counter("records", "d", ["outcome"]).labels("predicted").inc(3)
Gauge("lag", "d", multiprocess_mode="livesum").set(5)
Gauge("weight", "d", multiprocess_mode="livemostrecent").set(7)
Histogram("latency_seconds", "d", buckets=LATENCY_BUCKETS).observe(0.002)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path: Path):
    prepare_multiprocess(tmp_path)
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def lines(directory: Path) -> list[str]:
    return multiprocess_exposition(directory).decode().splitlines()


def test_replicas_are_one_exposition_and_dead_ones_keep_their_counts(writer, tmp_path) -> None:
    first, _ = writer(), writer()
    shown = lines(tmp_path)
    assert 'records_total{outcome="predicted"} 6.0' in shown
    assert "lag 10.0" in shown
    assert "weight 7.0" in shown
    assert 'latency_seconds_bucket{le="0.002"} 2.0' in shown

    first.kill()
    first.communicate()
    shown = lines(tmp_path)
    assert 'records_total{outcome="predicted"} 6.0' in shown
    assert "lag 5.0" in shown


def test_preparing_forgets_an_earlier_run(writer, tmp_path) -> None:
    process = writer()
    process.kill()
    process.communicate()
    prepare_multiprocess(tmp_path)
    assert lines(tmp_path) == []


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a directory"):
        multiprocess_exposition(tmp_path / "none")


def test_latency_buckets_rise_from_half_a_millisecond_to_a_minute() -> None:
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))
    assert (LATENCY_BUCKETS[0], LATENCY_BUCKETS[-1]) == (0.0005, 60.0)
