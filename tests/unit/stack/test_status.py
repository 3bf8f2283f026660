"""What status says of a component: its record, checked against process and endpoint."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from penstock_service.health import serve_health
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


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b'[{"pid": 7, "node": "b"}, {"pid": 5, "node": "a"}]', [(5, "a"), (7, "b")]),
        (b"[]", []),
        (b"{half writ", []),
        (b'[{"pid": 7}]', []),
        (b"7", []),
    ],
)
def test_replicas_are_those_that_the_service_knows(
    page: bytes, expected: list[tuple[int, str]]
) -> None:
    def yes() -> bool:
        return True

    pages = {"/replicas": lambda: page}
    with serve_health("127.0.0.1", 0, yes, yes, bytes, pages) as port:
        assert status.replicas_of(port) == expected
    assert status.replicas_of(port) == [], "it is away"


def test_inference_has_the_replicas_and_their_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "replicas_of", lambda port: [(5, "a"), (7, "b")])
    config = StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}, 30_000))
    state = StackState("ready", components={"inference": ComponentState("ready", ME)})
    component = Component("inference", is_ready=lambda: True)
    found, gateway = status.component_statuses(config, [component], state)
    assert (found.pids, found.nodes) == ((5, 7), ("a", "b"))
    assert (gateway.name, gateway.pids) == ("gateway", ())
