"""What runs now: the supervisor's record, checked against processes and endpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from penstock_stack import probes
from penstock_stack.component import Component, StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.state import ComponentState, StackState

ANSWER_WITHIN_S = 1.3
"""Probes that take longer count as no answer: status has two seconds in all."""


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
    nodes
        Where these run, one for each process; empty where it is this machine.
    """

    name: str
    state: str
    endpoint: str
    pids: tuple[int, ...]
    nodes: tuple[str, ...] = ()


def endpoints_of(state: StackState) -> Endpoints:
    """Return the ports that the recorded stack uses."""
    return Endpoints(state.ports)


def component_statuses(
    config: StackConfig, components: Sequence[Component], state: StackState
) -> list[ComponentStatus]:
    """Return the long-running components and the gateway, which lives inside inference."""
    lasting = [component for component in components if not component.is_job]
    gateway_port = config.endpoints.port("GATEWAY")
    checks: dict[str, Callable[[], Any]] = {c.name: _probe(c) for c in lasting}
    checks["gateway"] = lambda: probes.http_ok(gateway_port, "/v2/health/ready")
    inference_port = config.endpoints.port("INFERENCE")
    answers = _ask({**checks, "replicas": lambda: replicas_of(inference_port)})
    statuses = []
    for component in lasting:
        recorded = state.components.get(component.name, ComponentState("stopped"))
        alive = recorded.process is not None and recorded.process.is_alive
        pids: tuple[int, ...] = ()
        nodes: tuple[str, ...] = ()
        if recorded.process is not None and alive:
            pids = (recorded.process.pid,)
        if component.name == "inference":
            found = answers["replicas"] or []
            pids, nodes = tuple(pid for pid, _ in found), tuple(node for _, node in found)
        word = _word(recorded.state, alive, bool(answers[component.name]))
        statuses.append(ComponentStatus(component.name, word, component.endpoint, pids, nodes))
        if component.name == "inference":
            gateway = _word(recorded.state, alive, bool(answers["gateway"]))
            endpoint = config.endpoints.url("GATEWAY")
            statuses.append(ComponentStatus("gateway", gateway, endpoint, ()))
    return statuses


def replicas_of(port: int) -> list[tuple[int, str]]:
    """Return pid and node of the inference replicas, as the service at a port knows them."""
    try:
        rows = json.loads(probes.body(port, "/replicas") or b"[]")
        return sorted((int(row["pid"]), str(row["node"])) for row in rows)
    except (ValueError, KeyError, TypeError):
        return []  # another service has the port


def _probe(component: Component) -> Callable[[], bool]:
    is_ready = component.is_ready
    if is_ready is None:
        raise ValueError(f"{component.name} is a job")
    return is_ready


def _ask(checks: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return the answers; None where there is none in time."""
    pool = ThreadPoolExecutor(max_workers=len(checks), thread_name_prefix="status")
    futures = {name: pool.submit(check) for name, check in checks.items()}
    wait(futures.values(), timeout=ANSWER_WITHIN_S)
    pool.shutdown(wait=False, cancel_futures=True)
    return {name: future.result() if future.done() else None for name, future in futures.items()}


def _word(recorded: str, alive: bool, answers: bool) -> str:
    if recorded != "ready":
        return recorded
    if not alive:
        return "dead"
    return "ready" if answers else "unresponsive"
