"""Deployment files as data: Dockerfiles, Kubernetes manifests, and what must hold between them.

Of Dockerfiles it reads enough of the language for what ours use. `edge_problems` compares who must
reach whom, by the addresses that services are given, with who may.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals and its text, continuation lines joined."""

    name: str
    text: str

    @property
    def flags(self) -> list[str]:
        """The ``--flag=value`` words before the rest."""
        return [w for w in self.text.split() if w.startswith("--")]

    @property
    def words(self) -> list[str]:
        """What is left without the flags."""
        return [w for w in self.text.split() if not w.startswith("--")]


@dataclass(slots=True)
class Stage:
    """One ``FROM`` and what follows it."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, name: str) -> list[Instruction]:
        """Return the instructions called ``name``."""
        return [i for i in self.instructions if i.name == name]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The stages of a Dockerfile, and the arguments before the first."""

    stages: tuple[Stage, ...]
    arguments: dict[str, str]

    @property
    def all(self) -> list[Instruction]:
        """Every instruction of every stage."""
        return [i for stage in self.stages for i in stage.instructions]

    def chain(self, target: str | None = None) -> list[Stage]:
        """Return the stages that make up an image, first to last; the last stage's by default."""
        named = {stage.name: stage for stage in self.stages}
        stage = named[target] if target else self.stages[-1]
        chain = [stage]
        while chain[0].base in named:
            chain.insert(0, named[chain[0].base])
        return chain

    def environment(self, target: str | None = None) -> dict[str, str]:
        """Return what an image sets, as its processes see it."""
        found: dict[str, str] = {}
        for stage in self.chain(target):
            for instruction in stage.of("ENV"):
                found |= dict(w.split("=", 1) for w in shlex.split(instruction.text))
        return found

    def last(self, name: str, target: str | None = None) -> str:
        """Return the text of the instruction that counts; empty if there is none."""
        texts = [i.text for stage in self.chain(target) for i in stage.of(name)]
        return texts[-1] if texts else ""

    def command(self, target: str | None = None) -> list[str]:
        """Return what the container starts."""
        parts = (self.last("ENTRYPOINT", target), self.last("CMD", target))
        return [word for text in parts if text for word in json.loads(text)]


def parse_dockerfile(text: str, **given: str) -> Dockerfile:
    """Read the text of a Dockerfile, as built with the arguments that are given."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, re.sub(r"\\\n\s*", " ", lines).splitlines())):
        name, _, rest = line.partition(" ")
        if name.upper() == "FROM":
            base, _, stage = re.sub(r"--platform=\S+\s+", "", rest).partition(" AS ")
            stages.append(Stage(_filled(base.strip(), arguments), stage.strip()))
        elif not stages:
            key, _, value = rest.partition("=")
            arguments[key] = given.get(key, value)
        else:
            stages[-1].instructions.append(Instruction(name.upper(), rest.strip()))
    return Dockerfile(tuple(stages), arguments)


def read_dockerfile(path: Path, **given: str) -> Dockerfile:
    """Read a Dockerfile, as built with the arguments that are given."""
    return parse_dockerfile(path.read_text("utf-8"), **given)


def _filled(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m.group(1), ""), text)


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
