"""k8s/: what holds within a manifest, between manifests, and between them and the services."""

import importlib.util
import json
import shutil
import subprocess

import pytest
import yaml
from harness import deployment as k8s
from penstock_stack import kafka_server

CHECKS = {
    "selectors": k8s.selector_problems,
    "ports": k8s.port_problems,
    "probes": k8s.probe_problems,
    "security": k8s.security_problems,
    "references": k8s.reference_problems,
    "edges": k8s.edge_problems,
}
SERVICES = ("ingest", "inference", "drift", "retrain-trigger")
KUBECTL = shutil.which("kubectl")
OVERLAYS = ("local", "prod")


def only(documents, kind, name):
    return k8s.called(documents, kind, name)


def first(documents, name, index=0):
    return k8s.pod(only(documents, "Deployment", name))["containers"][index]


@pytest.mark.parametrize("check", CHECKS)
def test_base_is_consistent(check, base):
    assert CHECKS[check](base) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_name_files_that_are_there(overlay, root):
    folder = root / "k8s" / "overlays" / overlay
    document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    patches = [p["path"] for p in document.get("patches", []) if "path" in p]
    for name in (*document.get("resources", []), *document.get("components", []), *patches):
        assert (folder / name).exists(), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_render_and_are_consistent(overlay, root):
    if KUBECTL is None:
        return  # nothing else here renders them; the base is checked without it
    command = [KUBECTL, "kustomize", str(root / "k8s" / "overlays" / overlay)]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    documents = list(yaml.safe_load_all(text))
    assert [p for check in CHECKS.values() for p in check(documents)] == []
    copies = {t["spec"]["replicas"] for t in k8s.of_kind(documents, "KafkaTopic")}
    brokers = only(documents, "KafkaNodePool", "node")["spec"]["replicas"]
    config = only(documents, "Kafka", "penstock")["spec"]["kafka"]["config"]
    assert copies == {min(brokers, 3)} == {config["default.replication.factor"]}


def spoil_selector(documents):
    only(documents, "Service", "registry")["spec"]["selector"] = {"app": "nobody"}


def spoil_port(documents):
    only(documents, "Service", "drift")["spec"]["ports"][0]["targetPort"] = "metric"


def spoil_probe(documents):
    first(documents, "ingest")["livenessProbe"]["httpGet"]["path"] = "/ready"


def spoil_root(documents):
    first(documents, "drift")["securityContext"]["readOnlyRootFilesystem"] = False


def spoil_token(documents):
    k8s.pod(only(documents, "Deployment", "drift"))["automountServiceAccountToken"] = True


def spoil_tag(documents):
    first(documents, "triton")["image"] = "tritonserver:latest"


def spoil_claim(documents):
    volumes = k8s.pod(only(documents, "Deployment", "ingest"))["volumes"]
    volumes[-1]["persistentVolumeClaim"]["claimName"] = "fest"


def spoil_edge(documents):
    only(documents, "NetworkPolicy", "triton")["spec"]["ingress"][0]["from"].pop(0)


@pytest.mark.parametrize(
    ("spoil", "check", "problem"),
    [
        (spoil_selector, "selectors", "Service registry selects no pod"),
        (spoil_port, "ports", "Service drift: no port metric"),
        (spoil_probe, "probes", "ingest/ingest: livenessProbe does not ask /live"),
        (spoil_root, "security", "drift/drift: readOnlyRootFilesystem"),
        (spoil_token, "security", "drift: automountServiceAccountToken"),
        (spoil_tag, "security", "triton/triton: image"),
        (spoil_claim, "references", "ingest: no PersistentVolumeClaim fest"),
        (spoil_edge, "edges", "triton:8101 does not let inference in"),
    ],
)
def test_a_planted_error_is_found(spoil, check, problem, base):
    spoil(base)
    assert problem in CHECKS[check](base)


def test_every_file_is_used_and_every_used_file_is_there(root):
    folder = root / "k8s" / "base"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    files = {p.name for p in folder.glob("*.yaml")} - {"kustomization.yaml"}
    assert sorted(kustomization["resources"]) == sorted(files)
    used = {name for g in kustomization["configMapGenerator"] for name in g["envs"]}
    assert used == {f"config/{p.name}" for p in (folder / "config").iterdir()}


@pytest.mark.parametrize("service", SERVICES)
def test_config_map_is_settings_of_that_service(service, base, image_environment, load):
    data = only(base, "ConfigMap", service)["data"]
    prefix = f"PENSTOCK_{service.replace('-', '_').upper()}_"
    assert [n for n in data if not n.startswith(prefix)] == []
    settings = load(service, image_environment[service] | data)
    assert settings.kafka.bootstrap_servers == f"{k8s.BOOTSTRAP}:9092"


@pytest.mark.parametrize("service", SERVICES)
def test_folders_of_the_settings_are_mounted(service, base, image_environment, load):
    settings = load(service, image_environment[service] | only(base, "ConfigMap", service)["data"])
    pod = k8s.pod(only(base, "Deployment", service))
    mounted = {m["mountPath"]: m for c in pod["containers"] for m in c["volumeMounts"]}
    for field in ("run_dir", "feast_dir", "reports_dir"):
        if (folder := getattr(settings, field, None)) is not None:
            assert not mounted[str(folder)].get("readOnly", False)


def test_ray_and_the_service_share_what_they_meet_in(base):
    deployment = only(base, "Deployment", "inference")
    assert "shareProcessNamespace" not in k8s.pod(deployment), "replicas are not known by pid"
    ray, service = (
        {m["mountPath"]: m["name"] for m in c["volumeMounts"]}
        for c in (first(base, "inference", 0), first(base, "inference", 1))
    )
    for path in ("/tmp", "/var/lib/penstock/run", "/var/lib/penstock/token"):  # noqa: S108
        assert ray[path] == service[path]


def test_whoever_mounts_a_shared_claim_runs_where_the_others_run(base):
    users = {}
    for workload in k8s.of_kind(base, *k8s.WORKLOADS):
        for volume in k8s.pod(workload)["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                users.setdefault(claim["claimName"], []).append(workload)
    label = {"penstock/shares-volumes": "true"}
    for workloads in users.values():
        for workload in workloads if len(workloads) > 1 else []:
            assert label.items() <= k8s.pod_labels(workload).items()
            terms = k8s.pod(workload)["affinity"]["podAffinity"]
            (term,) = terms["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["labelSelector"]["matchLabels"] == label


def test_every_deployment_may_be_drained_and_is_named(base):
    budgets = {b["metadata"]["name"] for b in k8s.of_kind(base, "PodDisruptionBudget")}
    accounts = {a["metadata"]["name"] for a in k8s.of_kind(base, "ServiceAccount")}
    deployments = {d["metadata"]["name"] for d in k8s.of_kind(base, "Deployment")}
    assert budgets == deployments
    assert deployments <= accounts


def test_everything_is_denied_that_is_not_allowed(base):
    policy = only(base, "NetworkPolicy", "default-deny")["spec"]
    assert policy == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    needed = {(source, host) for source, host, _ in k8s.needed(base)}
    assert ("inference", "triton") in needed  # the edges' check looks at something
    assert ("retrain-trigger", "ray") in needed


def test_topics_are_those_of_the_pipelines(root):
    path = root / "k8s" / "generate_topics.py"
    spec = importlib.util.spec_from_file_location("generate_topics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.TARGET.read_text("utf-8")
    assert text == module.render(), "run: python k8s/generate_topics.py"
    names = [d["metadata"]["name"] for d in yaml.safe_load_all(text)]
    assert "fraud.events.v1" in names
    assert len(names) == len(set(names))


def test_cluster_takes_messages_as_the_embedded_broker(base):
    config = only(base, "Kafka", "penstock")["spec"]["kafka"]["config"]
    embedded = dict(
        line.split("=", 1)
        for line in kafka_server._PROPERTIES.splitlines()
        if line and not line.startswith("#")
    )
    for key in ("message.max.bytes", "replica.fetch.max.bytes", "auto.create.topics.enable"):
        assert json.dumps(config[key]) == embedded[key]
