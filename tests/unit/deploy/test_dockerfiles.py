"""Images: locked, without root, without anything that nobody declared."""

import fnmatch
import json
import re
import tomllib

import pytest
from harness import deployment
from penstock_stack.endpoints import HIDDEN_PORTS, PUBLIC_PORTS, RAY_WORKER_PORTS
from penstock_stack.processes import NO_TELEMETRY
from penstock_stack.ray_head import LOGICAL_CPUS, OBJECT_STORE_BYTES, ray_environment

IMAGES = ("ingest", "inference", "drift", "retrain-trigger", "ray", "cli")
PORTS = {"ingest": 9101, "inference": 9102, "drift": 9103, "retrain-trigger": 9104}


def read(root, image):
    """Return the Dockerfile of an image, as built with the argument that says so."""
    if image == "cli":
        return deployment.read_dockerfile(root / "docker/cli/Dockerfile")
    return deployment.read_dockerfile(root / "docker/Dockerfile", PACKAGE=image)


def problems(file, root):
    """Return what is wrong with a Dockerfile, in words."""
    found = []
    names = {stage.name for stage in file.stages}
    for stage in file.stages:
        tag = stage.base.partition(":")[2]
        if stage.base not in names and (not tag or tag.startswith("latest")):
            found.append(f"base {stage.base} is not pinned")
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", file.last("USER")):
        found.append("runs as root")
    for instruction in file.all:
        if instruction.name == "ADD":
            found.append("ADD")
        if instruction.name == "RUN" and re.search(
            r"\b(curl|wget|pip|apt-get|sudo)\b", instruction.text
        ):
            found.append(f"RUN {instruction.text}")
        if instruction.name == "RUN" and "uv sync" in instruction.text:
            wanted = ("--frozen", "--no-dev", "--no-editable", "--package", "--mount=type=cache")
            found += [f"uv sync without {flag}" for flag in wanted if flag not in instruction.text]
        if instruction.name in ("ENV", "ARG") and re.search(
            r"(?i)(password|secret)=", instruction.text
        ):
            found.append(f"secret: {instruction.text}")
    found += _copy_problems(file, root)
    if not file.last("HEALTHCHECK"):
        found.append("no HEALTHCHECK")
    return found


def _copy_problems(file, root):
    found = []
    for stage in file.stages:
        is_final = any(stage in file.chain(s.name) for s in file.stages if _is_image(s))
        for copy in stage.of("COPY"):
            if is_final and not any(flag.startswith("--chown=") for flag in copy.flags):
                found.append(f"COPY without --chown: {copy.text}")
            if any(flag.startswith("--from=") for flag in copy.flags):
                continue
            for source in copy.words[:-1]:
                if not (root / source).exists():
                    found.append(f"COPY of {source}, which is not there")
                if is_ignored(root, source):
                    found.append(f"COPY of {source}, which .dockerignore keeps out")
    return found


def _is_image(stage):
    return any(i.name == "ENTRYPOINT" for i in stage.instructions)


def is_ignored(root, source):
    """Tell whether .dockerignore keeps a path out: the last line that matches decides."""
    ignored = False
    for line in (root / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        parts = source.split("/")
        paths = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        if any(fnmatch.fnmatch(path, pattern) for path in paths):
            ignored = not line.startswith("!")
    return ignored


@pytest.mark.parametrize("name", IMAGES)
def test_dockerfile_keeps_the_rules(name, root):
    assert problems(read(root, name), root) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER 10001:10001", "USER root", "runs as root"),
        ("COPY cli cli", "ADD cli cli", "ADD"),
        ("COPY cli cli", "COPY cli absent cli", "COPY of absent, which is not there"),
        ("COPY cli cli", "COPY tests tests", "COPY of tests, which .dockerignore keeps out"),
        ("--frozen ", "", "uv sync without --frozen"),
        ("RUN python bootstrap.py", "RUN curl -L x | sh", "RUN curl -L x | sh"),
        ("=python:3.11-slim-bookworm\n", "=python:latest\n", "base python:latest is not pinned"),
        (" --chown=root:root pipelines", " pipelines", "COPY without --chown: pipelines pipelines"),
    ],
)
def test_a_planted_error_is_found(root, old, new, problem):
    text = (root / "docker/Dockerfile").read_text("utf-8")
    assert old in text
    assert problem in problems(deployment.parse_dockerfile(text.replace(old, new)), root)


@pytest.mark.parametrize("name", IMAGES)
def test_images_share_a_user_and_report_to_nobody(name, root):
    file = read(root, name)
    assert file.last("USER") == "10001:10001"
    assert NO_TELEMETRY.items() <= file.environment().items()


@pytest.mark.parametrize("name", IMAGES)
def test_labels_name_the_image_and_its_version(name, root):
    file = read(root, name)
    text = " ".join(i.text for stage in file.chain() for i in stage.of("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    version = tomllib.loads((root / "cli/pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {i.text for i in file.all if i.text.startswith("VERSION=")} == {f"VERSION={version}"}


@pytest.mark.parametrize(("service", "port"), PORTS.items())
def test_health_check_asks_live_at_the_port_of_the_settings(service, port, root, load):
    file = read(root, service)
    settings = load(service, file.environment())
    assert settings.metrics_port == port
    assert settings.metrics_host == "0.0.0.0"  # behind the container's own network
    assert f"'127.0.0.1', {port}" in file.last("HEALTHCHECK")
    assert "'/live'" in file.last("HEALTHCHECK")
    assert str(port) in file.last("EXPOSE")


@pytest.mark.parametrize("service", PORTS)
def test_folders_of_the_settings_are_declared_writable(service, root, load):
    file = read(root, service)
    settings = load(service, file.environment())
    made = " ".join(i.text for stage in file.chain() for i in stage.of("RUN"))
    for field in ("run_dir", "feast_dir", "reports_dir"):
        if (folder := getattr(settings, field, None)) is not None:
            assert str(folder) in made.split()


def test_ray_head_is_started_as_the_embedded_one(root, tmp_path):
    from penstock_stack.component import StackConfig
    from penstock_stack.endpoints import Endpoints

    file = read(root, "inference")
    flags = dict(w[2:].partition("=")[::2] for w in file.command("ray") if w.startswith("--"))
    ports = {
        "port": "RAY_GCS",
        "node-manager-port": "RAY_NODE_MANAGER",
        "object-manager-port": "RAY_OBJECT_MANAGER",
        "ray-client-server-port": "RAY_CLIENT",
        "dashboard-agent-listen-port": "RAY_AGENT",
        "dashboard-agent-grpc-port": "RAY_AGENT_GRPC",
        "metrics-export-port": "RAY_METRICS",
        "runtime-env-agent-port": "RAY_RUNTIME_ENV",
        "min-worker-port": "RAY_WORKERS",
    }
    assert {flag: flags[flag] for flag in ports} == {
        flag: str(HIDDEN_PORTS[name]) for flag, name in ports.items()
    }
    assert flags["dashboard-port"] == str(PUBLIC_PORTS["RAY"])
    assert int(flags["max-worker-port"]) == HIDDEN_PORTS["RAY_WORKERS"] + RAY_WORKER_PORTS - 1
    assert flags["num-cpus"] == str(LOGICAL_CPUS)
    assert flags["object-store-memory"] == str(OBJECT_STORE_BYTES)
    assert flags["node-ip-address"] == "127.0.0.1"
    config = StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}))
    special = {"RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "SPT_NOENV"}
    for name, value in ray_environment(config).items():
        if name not in special:
            assert file.environment("ray")[name] == file.environment("inference")[name] == value


def test_ray_image_has_what_the_job_and_the_first_model_need(root):
    file = read(root, "inference")
    build = next(stage for stage in file.stages if stage.name == "build-ray")
    (sync,) = (i.text for i in build.of("RUN") if "uv sync" in i.text)
    assert "--package penstock-inference" in sync
    assert "--package penstock-training-job" in sync
    assert file.environment("ray")["PENSTOCK_TRITON_MODELS"] == "/app/triton_models"
    assert json.loads(file.last("ENTRYPOINT", "ray"))[:3] == ["ray", "start", "--head"]
