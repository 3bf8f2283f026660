"""What runs now: the supervisor's record, checked against processes and endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from penstock_stack import probes
from penstock_stack.component import Component, StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.processes import ProcessIdentity
from penstock_stack.state import ComponentState, StackState

ANSWER_WITHIN_S = 1.3
"""Probes that take longer count as no answer: status has two seconds in all."""

_SAME_START_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One line of ``penstock status``.

    Parameters
    ----------
    name
        Component.
    state
        What the supervisor says, or: dead (no process), unresponsive (a process, no answer).
    endpoint
        Where it is reached.
    pids
        Its processes; of inference, its replica workers.
    """

    name: str
    state: str
    endpoint: str
    pids: tuple[int, ...]


def endpoints_of(state: StackState) -> Endpoints:
    """Return the ports that the recorded stack uses."""
    return Endpoints(state.ports)


def component_statuses(
    config: StackConfig, components: Sequence[Component], state: StackState
) -> list[ComponentStatus]:
    """Return the long-running components and the gateway, which lives inside inference."""
    lasting = [component for component in components if not component.is_job]
    gateway_port = config.endpoints.port("GATEWAY")
    checks: dict[str, Callable[[], bool]] = {c.name: _probe(c) for c in lasting}
    checks["gateway"] = lambda: probes.http_ok(gateway_port, "/v2/health/ready")
    answers = _ask(checks)
    statuses = []
    for component in lasting:
        recorded = state.components.get(component.name, ComponentState("stopped"))
        alive = recorded.process is not None and recorded.process.is_alive
        pids: tuple[int, ...] = ()
        if recorded.process is not None and alive:
            pids = (recorded.process.pid,)
        if component.name == "inference":
            pids = replica_pids(config.run)
        word = _word(recorded.state, alive, answers[component.name])
        statuses.append(ComponentStatus(component.name, word, component.endpoint, pids))
        if component.name == "inference":
            gateway = _word(recorded.state, alive, answers["gateway"])
            endpoint = config.endpoints.url("GATEWAY")
            statuses.append(ComponentStatus("gateway", gateway, endpoint, ()))
    return statuses


def replica_pids(run_dir: Path) -> tuple[int, ...]:
    """Return the live inference replicas, as they wrote themselves down."""
    pids = []
    for path in (run_dir / "inference-replicas").glob("*.json"):
        try:
            facts = json.loads(path.read_text("utf-8"))
            pid, started_at = int(facts["pid"]), float(facts["started_at"])
            same = abs(psutil.Process(pid).create_time() - started_at) < _SAME_START_S
        except (OSError, ValueError, KeyError, psutil.Error):
            continue  # gone, or its file is being written or removed at this moment
        if same and ProcessIdentity.of(pid) is not None:
            pids.append(pid)
    return tuple(sorted(pids))


def _probe(component: Component) -> Callable[[], bool]:
    is_ready = component.is_ready
    if is_ready is None:
        raise ValueError(f"{component.name} is a job")
    return is_ready


def _ask(checks: Mapping[str, Callable[[], bool]]) -> dict[str, bool]:
    pool = ThreadPoolExecutor(max_workers=len(checks), thread_name_prefix="status")
    futures = {name: pool.submit(check) for name, check in checks.items()}
    wait(futures.values(), timeout=ANSWER_WITHIN_S)
    pool.shutdown(wait=False, cancel_futures=True)
    return {name: future.done() and future.result() for name, future in futures.items()}


def _word(recorded: str, alive: bool, answers: bool) -> str:
    if recorded != "ready":
        return recorded
    if not alive:
        return "dead"
    return "ready" if answers else "unresponsive"
