"""compose.yaml: hardened, bound to this machine, and every variable is a real setting."""

import copy
import re

import pytest
import yaml
from harness import deployment
from penstock_schemas.errors import ConfigError
from penstock_stack import kafka_server, registry_server
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import PUBLIC_PORTS, Endpoints

SERVICES = ("ingest", "inference", "drift", "retrain-trigger")
JOBS = {"prepare", "topics", "first-model"}
THEIR_IMAGES = {"kafka", "registry", "triton"}
INNER_ONLY = {"triton", "prepare", "topics", "first-model"}


def filled(value, environment):
    """Fill ${NAME:-default} in as Docker Compose does."""
    if isinstance(value, dict):
        return {k: filled(v, environment) for k, v in value.items()}
    if isinstance(value, list):
        return [filled(v, environment) for v in value]
    if isinstance(value, str):
        value = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: environment.get(m[1]) or m[2], value)
        assert not re.search(r"(?<!\$)\$\{", value), value
    return value


@pytest.fixture
def project(root):
    return filled(yaml.safe_load((root / "compose.yaml").read_text("utf-8")), {})


def problems(project):
    """Return what is wrong with a compose project, in words."""
    found = []
    for name, service in project["services"].items():
        wanted = {
            "read_only": service.get("read_only") is True,
            "cap_drop": service.get("cap_drop") == ["ALL"],
            "no-new-privileges": "no-new-privileges:true" in service.get("security_opt", []),
            "restart": "restart" in service,
            "healthcheck": name in JOBS or "test" in service.get("healthcheck", {}),
            "limits": service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"},
            "privileged": not {"privileged", "cap_add", "devices"} & service.keys(),
            "user": service.get("user") == "10001:10001" or name in THEIR_IMAGES,
            "image": re.search(r":\d", service["image"]) is not None,
        }
        found += [f"{name}: {what}" for what, is_so in wanted.items() if not is_so]
        for port in service.get("ports", []):
            if not port.startswith("127.0.0.1:"):
                found.append(f"{name}: port {port} is open to others")
        for needed, how in service.get("depends_on", {}).items():
            is_job = how["condition"] == "service_completed_successfully"
            if needed not in project["services"] or is_job != (needed in JOBS):
                found.append(f"{name}: depends on {needed} being {how['condition']}")
        for volume in service.get("volumes", []):
            if volume.partition(":")[0] not in project["volumes"]:
                found.append(f"{name}: no volume {volume}")
    return found


def test_project_keeps_the_rules(project):
    assert problems(project) == []


@pytest.mark.parametrize(
    ("service", "change", "problem"),
    [
        ("kafka", {"ports": ["9092:9092"]}, "kafka: port 9092:9092 is open to others"),
        ("drift", {"read_only": False}, "drift: read_only"),
        ("ingest", {"user": "root"}, "ingest: user"),
        ("triton", {"image": "tritonserver:latest"}, "triton: image"),
        (
            "drift",
            {"depends_on": {"first-model": {"condition": "service_healthy"}}},
            "drift: depends on first-model being service_healthy",
        ),
        ("mlflow", {"volumes": ["absent:/x"]}, "mlflow: no volume absent:/x"),
    ],
)
def test_a_planted_error_is_found(project, service, change, problem):
    spoilt = copy.deepcopy(project)
    spoilt["services"][service] |= change
    assert problem in problems(spoilt)


@pytest.mark.parametrize("service", SERVICES)
def test_environment_is_settings_of_that_service(service, project, image_environment, load):
    environment = project["services"][service]["environment"]
    prefix = f"PENSTOCK_{service.replace('-', '_').upper()}_"
    assert [n for n in environment if not n.startswith(prefix)] == []
    settings = load(service, image_environment[service] | environment)
    assert settings.kafka.bootstrap_servers == "kafka:19092"
    assert settings.registry.url.startswith("http://registry:8080/")
    assert settings.model_dump(mode="json")["pipelines"] == ["/app/pipelines/fraud"]


def test_each_image_is_built_with_the_argument_of_its_package(project):
    for service in project["services"].values():
        if "build" in service and "cli" not in service["image"]:
            assert service["build"]["dockerfile"] == "docker/Dockerfile"
            package = service["build"]["args"]["PACKAGE"]
            assert service["image"].startswith(f"penstock/{package}:")


def test_a_variable_that_is_no_setting_is_found(project, image_environment, load):
    environment = project["services"]["ingest"]["environment"]
    with pytest.raises(ConfigError, match="PENSTOCK_INGEST_REGISTRY_URL"):
        load(
            "ingest",
            image_environment["ingest"] | environment | {"PENSTOCK_INGEST_REGISTRY_URL": "x"},
        )
    with pytest.raises(ConfigError, match="KAFKA__BOOTSTRAP"):
        load("ingest", environment | {"PENSTOCK_INGEST_KAFKA__BOOTSTRAP": "x"})


def test_addresses_are_services_of_the_project_and_ports_they_listen_on(project):
    services = project["services"]
    listening = {
        "kafka": {19092},
        "registry": {8080},
        "triton": {8100, 8101, 8102},
        "mlflow": {5000},
        "ray": {8265},
    }
    for name, service in services.items():
        texts = [
            *map(str, service.get("environment", {}).values()),
            *map(str, service.get("command", [])),
        ]
        for host, port in re.findall(r"\b([a-z][a-z-]*):(\d{4,5})\b", " ".join(texts)):
            if host in ("localhost", "uid"):
                continue
            assert int(port) in listening[host], f"{name}: {host}:{port}"


def test_ports_are_those_of_the_contract(project):
    published = {
        port.split(":")[1]: port.split(":")[2]
        for service in project["services"].values()
        for port in service.get("ports", [])
    }
    names = ("KAFKA", "REGISTRY", "GATEWAY", "RAY", "MLFLOW")
    names += ("INGEST", "INFERENCE", "DRIFT", "RETRAIN_TRIGGER")
    assert set(published) == {str(PUBLIC_PORTS[name]) for name in names}


def test_whoever_publishes_no_port_has_no_way_out(project):
    assert project["networks"]["inner"] == {"internal": True}
    for name, service in project["services"].items():
        if name == "inference":
            assert service["network_mode"] == "service:ray"
        else:
            expected = ["inner"] if name in INNER_ONLY else ["inner", "edge"]
            assert service["networks"] == expected


def test_triton_has_no_published_port_and_cannot_write_models(project):
    triton = project["services"]["triton"]
    assert "ports" not in triton
    assert triton["volumes"] == ["models:/models:ro"]
    release = re.search(r"tritonserver:(\d+)\.(\d+)-", triton["image"])
    assert (int(release[1]), int(release[2])) >= (26, 7)


def test_example_names_every_variable_and_its_default(root):
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (root / "compose.yaml").read_text("utf-8")))
    example = dict(re.findall(r"(?m)^#(\w+)=(.*)$", (root / ".env.example").read_text("utf-8")))
    assert example == used


def test_broker_is_configured_as_the_embedded_one(project):
    embedded = dict(
        line.split("=", 1)
        for line in kafka_server._PROPERTIES.splitlines()
        if line and not line.startswith("#") and "{" not in line
    )
    environment = project["services"]["kafka"]["environment"]
    ours = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for name, value in environment.items()
    }
    own = {"process.roles", "node.id", "listener.security.protocol.map"}
    wanted = {key: value for key, value in embedded.items() if key not in own}
    assert {key: ours.get(key) for key in wanted} == wanted
    assert environment["CLUSTER_ID"] == kafka_server.CLUSTER_ID


def test_registry_is_configured_as_the_embedded_one(project, tmp_path, monkeypatch):
    monkeypatch.setattr(registry_server, "registry_home", lambda cache: cache)
    monkeypatch.setattr(registry_server, "java", lambda: "java")
    component = registry_server.registry(
        StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}))
    )
    embedded = component.prepare().environment
    addresses = ("BOOTSTRAP_SERVERS", "_HOST", "_PORT")
    wanted = {k: v for k, v in embedded.items() if not k.endswith(addresses)}
    environment = project["services"]["registry"]["environment"]
    assert wanted.items() <= environment.items()


def test_pipelines_folders_of_job_and_images_agree(project, root):
    command = project["services"]["first-model"]["command"]
    assert "--pipeline-dir=/app/pipelines/fraud" in command
    file = deployment.read_dockerfile(root / "docker/Dockerfile")
    folders = {target for target in ("ray", "inference")}
    for target in folders:
        copies = [i.text for stage in file.chain(target) for i in stage.of("COPY")]
        assert "--chown=root:root pipelines pipelines" in copies
