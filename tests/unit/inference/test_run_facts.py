from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from penstock_inference import run_facts
from penstock_inference.__main__ import main


def test_replica_is_live_while_its_process_is_that_process(tmp_path: Path) -> None:
    ours = run_facts.own_facts("tiny")
    reused_pid = replace(ours, pid=os.getppid())
    run_facts.write_replica(tmp_path, replace(ours, ready=True))
    run_facts.write_replica(tmp_path, replace(reused_pid, started_at=1.0))
    alive, gone = run_facts.live_replicas(tmp_path)
    assert alive == [replace(ours, ready=True)]
    assert gone == [os.getppid()]
    run_facts.remove_replica(tmp_path, ours.pid)
    assert run_facts.live_replicas(tmp_path)[0] == []


def test_scale_is_noted_per_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INFERENCE_RUN_DIR", str(tmp_path))
    assert main(["scale", "a", "2"]) == 0
    assert main(["scale", "b", "3"]) == 0
    assert main(["scale", "a", "1"]) == 0
    assert run_facts.wanted_replicas(tmp_path) == {"a": 1, "b": 3}


def test_unreadable_scale_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / run_facts.SCALE).write_text("{")
    assert run_facts.wanted_replicas(tmp_path) == {}
