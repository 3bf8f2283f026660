"""What status says of a component: its record, checked against process and endpoint."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import psutil
import pytest
from penstock_stack import status
from penstock_stack.component import Component, StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.processes import ProcessIdentity
from penstock_stack.state import ComponentState, StackState

ME = ProcessIdentity.of(os.getpid())
GONE = ProcessIdentity(os.getpid(), 0, "another boot")


def word(tmp_path: Path, recorded: ComponentState, answers: bool) -> tuple[str, tuple[int, ...]]:
    config = StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}, 30_000))
    component = Component("kafka", is_ready=lambda: answers, endpoint="127.0.0.1:1")
    state = StackState("ready", components={"kafka": recorded})
    (found,) = status.component_statuses(config, [component], state)
    assert found.endpoint == "127.0.0.1:1"
    return found.state, found.pids


def test_alive_and_answering_is_ready(tmp_path: Path) -> None:
    assert word(tmp_path, ComponentState("ready", ME), True) == ("ready", (os.getpid(),))


def test_alive_without_an_answer_is_unresponsive(tmp_path: Path) -> None:
    assert word(tmp_path, ComponentState("ready", ME), False)[0] == "unresponsive"


def test_recorded_as_ready_without_a_process_is_dead(tmp_path: Path) -> None:
    assert word(tmp_path, ComponentState("ready", GONE), True) == ("dead", ())


def test_what_the_supervisor_knows_better_is_believed(tmp_path: Path) -> None:
    assert word(tmp_path, ComponentState("restarting"), True)[0] == "restarting"


def test_a_hanging_probe_counts_as_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "ANSWER_WITHIN_S", 0.1)
    release = threading.Event()
    config = StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}, 30_000))
    component = Component("kafka", is_ready=lambda: release.wait(20))
    state = StackState("ready", components={"kafka": ComponentState("ready", ME)})
    (found,) = status.component_statuses(config, [component], state)
    release.set()
    assert found.state == "unresponsive"


def test_replicas_are_those_that_wrote_themselves_down_and_live(tmp_path: Path) -> None:
    folder = tmp_path / "inference-replicas"
    folder.mkdir()
    mine, parents = (psutil.Process(p).create_time() for p in (os.getpid(), os.getppid()))
    reused = {"pid": os.getppid(), "started_at": parents - 9}
    (folder / "reused.json").write_text(json.dumps(reused))
    (folder / "a.json").write_text(json.dumps({"pid": os.getpid(), "started_at": mine}))
    (folder / "b.json").write_text(json.dumps({"pid": 2**22 + 1, "started_at": mine}))
    (folder / "c.json").write_text("{half writ")
    assert status.replica_pids(tmp_path) == (os.getpid(),)
    assert status.replica_pids(tmp_path / "none") == ()
