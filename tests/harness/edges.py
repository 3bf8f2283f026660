"""Who must reach whom, read from the addresses that services are given; and who may."""

from __future__ import annotations

import re
from typing import Any

from harness.manifests import WORKLOADS, called, containers, of_kind, pod, pod_labels, selected

Manifest = dict[str, Any]
KAFKA = {"strimzi.io/cluster": "penstock", "strimzi.io/name": "penstock-kafka"}
BOOTSTRAP = "penstock-kafka-bootstrap"
USED_BY = {("retrain-trigger", "mlflow"): "inference", ("retrain-trigger", "triton"): "inference"}
"""The trigger hands these addresses to its job, which runs in the pod of the Ray head."""


def needed(documents: list[Manifest]) -> set[tuple[str, str, int]]:
    """Return (workload, service, port) of every address in settings and arguments."""
    services = {s["metadata"]["name"] for s in of_kind(documents, "Service")} | {BOOTSTRAP}
    found = set()
    for name, _, container in containers(documents):
        texts = list(container.get("args", []))
        for source in container.get("envFrom", []):
            config = called(documents, "ConfigMap", source["configMapRef"]["name"])
            texts += config["data"].values()
        for host, port in re.findall(r"([a-z][a-z-]*):(\d+)", " ".join(texts)):
            if host in services:
                source = name.partition("/")[0]
                found.add((USED_BY.get((source, host), source), host, int(port)))
    return found


def edge_problems(documents: list[Manifest]) -> list[str]:
    """Addresses that the network policies do not let through, on one side or the other."""
    workloads = {w["metadata"]["name"]: w for w in of_kind(documents, *WORKLOADS)}
    problems = []
    for source, host, port in sorted(needed(documents)):
        labels = pod_labels(workloads[source])
        if host == BOOTSTRAP:
            # Into the brokers Strimzi's own policy lets those of the listener's peers.
            if not _lets(documents, "egress", labels, KAFKA, {port}):
                problems.append(f"{source} may not leave to {host}:{port}")
            continue
        service = called(documents, "Service", host)
        for target in selected(documents, service["spec"]["selector"]):
            ports = _names(target, port) | {port}
            if not _lets(documents, "egress", labels, pod_labels(target), ports):
                problems.append(f"{source} may not leave to {host}:{port}")
            if not _lets(documents, "ingress", pod_labels(target), labels, ports):
                problems.append(f"{host}:{port} does not let {source} in")
    return problems


def _names(workload: Manifest, number: int) -> set[str | int]:
    ports = [p for c in pod(workload)["containers"] for p in c.get("ports", [])]
    return {p["name"] for p in ports if p["containerPort"] == number}


def _lets(
    documents: list[Manifest],
    direction: str,
    own: dict[str, str],
    other: dict[str, str],
    ports: set[str | int] | set[int],
) -> bool:
    word = "to" if direction == "egress" else "from"
    for policy in of_kind(documents, "NetworkPolicy"):
        if not _selects(policy["spec"]["podSelector"], own):
            continue
        for rule in policy["spec"].get(direction, []):
            peers = [p["podSelector"] for p in rule.get(word, []) if set(p) == {"podSelector"}]
            allowed = {p["port"] for p in rule.get("ports", [])}
            if any(_selects(peer, other) for peer in peers) and allowed & ports:
                return True
    return False


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
