from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from penstock_inference import replicas
from penstock_inference.__main__ import main


def test_replica_is_live_while_its_process_is_that_process(tmp_path: Path) -> None:
    ours = replicas.own_facts("tiny")
    reused_pid = replace(ours, pid=os.getppid())
    replicas.write_replica(tmp_path, replace(ours, ready=True))
    replicas.write_replica(tmp_path, replace(reused_pid, started_at=1.0))
    alive, gone = replicas.live_replicas(tmp_path)
    assert alive == [replace(ours, ready=True)]
    assert gone == [os.getppid()]
    replicas.remove_replica(tmp_path, ours.pid)
    assert replicas.live_replicas(tmp_path)[0] == []


def test_scale_is_noted_per_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INFERENCE_RUN_DIR", str(tmp_path))
    assert main(["scale", "a", "2"]) == 0
    assert main(["scale", "b", "3"]) == 0
    assert main(["scale", "a", "1"]) == 0
    assert replicas.wanted_replicas(tmp_path) == {"a": 1, "b": 3}


def test_unreadable_scale_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / replicas.SCALE).write_text("{")
    assert replicas.wanted_replicas(tmp_path) == {}
