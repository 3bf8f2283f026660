"""Kubernetes manifests as data, and what must hold between them.

Each check returns problems in words, so that a test can plant an error and look for its problem.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
WORKLOADS = ("Deployment", "Job")


def base(folder: Path) -> list[Manifest]:
    """Return the resources of a base, with the ConfigMaps that kustomize would generate."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    documents = [
        document
        for name in kustomization["resources"]
        for document in yaml.safe_load_all((folder / name).read_text("utf-8"))
    ]
    for generator in kustomization.get("configMapGenerator", []):
        lines = [x for n in generator["envs"] for x in (folder / n).read_text("utf-8").splitlines()]
        data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        metadata = {"name": generator["name"]}
        documents.append({"kind": "ConfigMap", "metadata": metadata, "data": data})
    return documents


def of_kind(documents: list[Manifest], *kinds: str) -> list[Manifest]:
    """Return the documents of these kinds."""
    return [d for d in documents if d["kind"] in kinds]


def called(documents: list[Manifest], kind: str, name: str) -> Manifest:
    """Return a document by kind and name."""
    return next(d for d in of_kind(documents, kind) if d["metadata"]["name"] == name)


def pod(workload: Manifest) -> Manifest:
    """Return the pod template's spec."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def pod_labels(workload: Manifest) -> dict[str, str]:
    """Return the pod template's labels."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(documents: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Yield name, pod spec and container of every container."""
    for workload in of_kind(documents, *WORKLOADS):
        spec = pod(workload)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{workload['metadata']['name']}/{container['name']}", spec, container


def selected(documents: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    """Return the workloads whose pods have all these labels."""
    return [w for w in of_kind(documents, *WORKLOADS) if labels.items() <= pod_labels(w).items()]


def selector_problems(documents: list[Manifest]) -> list[str]:
    """Selectors that select nothing, and labels that are missing."""
    problems = []
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        spec = document.get("spec", {})
        if document["kind"] == "Service" and not selected(documents, spec["selector"]):
            problems.append(f"{name} selects no pod")
        if document["kind"] == "PodDisruptionBudget":
            if not selected(documents, spec["selector"]["matchLabels"]):
                problems.append(f"{name} selects no pod")
        if document["kind"] == "Deployment":
            if not spec["selector"]["matchLabels"].items() <= pod_labels(document).items():
                problems.append(f"{name} does not select its own pods")
        if document["kind"] not in ("ConfigMap", "Namespace"):
            labels = document["metadata"].get("labels", {})
            missing = {"app.kubernetes.io/part-of", "app.kubernetes.io/component"} - labels.keys()
            problems += [f"{name} has no label {label}" for label in sorted(missing)]
    return problems


def port_problems(documents: list[Manifest]) -> list[str]:
    """Services and probes that name a port which no container has."""
    problems = []
    for service in of_kind(documents, "Service"):
        for workload in selected(documents, service["spec"]["selector"]):
            names = {p["name"] for c in pod(workload)["containers"] for p in c.get("ports", [])}
            wanted = {p["targetPort"] for p in service["spec"]["ports"]}
            problems += [
                f"Service {service['metadata']['name']}: no port {p}" for p in wanted - names
            ]
    for name, _, container in containers(documents):
        names = {p["name"] for p in container.get("ports", [])}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind, {})
            target = probe.get("httpGet", probe.get("tcpSocket"))
            if target and target["port"] not in names:
                problems.append(f"{name}: {kind} asks port {target['port']}")
    return problems


def probe_problems(documents: list[Manifest]) -> list[str]:
    """Containers that run on without probes, and services that are asked the wrong question."""
    problems = []
    for workload in of_kind(documents, "Deployment"):
        for container in pod(workload)["containers"]:
            name = f"{workload['metadata']['name']}/{container['name']}"
            for kind, path in (
                ("startupProbe", "/live"),
                ("livenessProbe", "/live"),
                ("readinessProbe", "/ready"),
            ):
                probe = container.get(kind)
                if probe is None:
                    problems.append(f"{name}: no {kind}")
                elif _is_service(container) and probe.get("httpGet", {}).get("path") != path:
                    problems.append(f"{name}: {kind} does not ask {path}")
    return problems


def _is_service(container: Manifest) -> bool:
    ours = container["image"].startswith("penstock/")
    return ours and not container["image"].startswith(("penstock/ray", "penstock/cli"))


def security_problems(documents: list[Manifest]) -> list[str]:
    """What the pod security standard "restricted", and this project beyond it, refuse."""
    problems = []
    for workload in of_kind(documents, *WORKLOADS):
        name, spec = workload["metadata"]["name"], pod(workload)
        context = spec.get("securityContext", {})
        wanted = {
            "runAsNonRoot": context.get("runAsNonRoot") is True,
            "runAsUser": context.get("runAsUser", 0) > 0,
            "seccompProfile": context.get("seccompProfile") == {"type": "RuntimeDefault"},
            "automountServiceAccountToken": spec.get("automountServiceAccountToken") is False,
            "enableServiceLinks": spec.get("enableServiceLinks") is False,
            "hostNetwork": not any(k.startswith("host") for k in spec),
            "hostPath": not any("hostPath" in v for v in spec.get("volumes", [])),
        }
        problems += [f"{name}: {field}" for field, is_so in wanted.items() if not is_so]
    for name, _, container in containers(documents):
        context = container.get("securityContext", {})
        wanted = {
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "image": _is_pinned(container["image"]),
            "limits": container["resources"]["limits"].keys() == {"cpu", "memory"},
            "requests": container["resources"]["requests"].keys() == {"cpu", "memory"},
        }
        problems += [f"{name}: {field}" for field, is_so in wanted.items() if not is_so]
    for account in of_kind(documents, "ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            problems.append(f"ServiceAccount {account['metadata']['name']}: token is mounted")
    return problems + [f"Secret {d['metadata']['name']}" for d in of_kind(documents, "Secret")]


def _is_pinned(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(tag) and not tag.startswith("latest")


def reference_problems(documents: list[Manifest]) -> list[str]:
    """Names of volumes, claims, accounts and ConfigMaps that nothing bears."""
    names = {(d["kind"], d["metadata"]["name"]) for d in documents}
    problems = []
    for workload in of_kind(documents, *WORKLOADS):
        spec = pod(workload)
        owner = workload["metadata"]["name"]
        wanted = {("ServiceAccount", spec["serviceAccountName"])}
        for volume in spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                wanted.add(("PersistentVolumeClaim", claim["claimName"]))
        volumes = {v["name"] for v in spec["volumes"]}
        for container in spec["containers"]:
            for source in container.get("envFrom", []):
                wanted.add(("ConfigMap", source["configMapRef"]["name"]))
            mounts = {m["name"] for m in container.get("volumeMounts", [])}
            problems += [f"{owner}: no volume {m}" for m in mounts - volumes]
        problems += [f"{owner}: no {kind} {name}" for kind, name in wanted - names]
    return problems
