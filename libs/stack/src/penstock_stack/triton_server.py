"""The embedded Triton: its own environment, its backends, its command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from penstock_schemas.errors import ConfigError

from penstock_stack import probes
from penstock_stack.artifacts import ArtifactError, sha256_of
from penstock_stack.component import Component, Launch, StackConfig
from penstock_stack.endpoints import HOST

_INSTALL_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class TritonRuntime:
    """Where the server's binary and its Python packages lie."""

    site_packages: Path

    @property
    def server(self) -> Path:
        """The bundled server's folder."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def libraries(self) -> Path:
        """Shared libraries bundled with the binary."""
        return self.site_packages / "nvidia_pytriton.libs"


def triton(config: StackConfig) -> Component:
    """Return the model server's component."""
    port = config.endpoints.port("TRITON")
    return Component(
        name="triton",
        prepare=lambda: _prepare(config),
        is_ready=lambda: probes.http_ok(port, "/v2/health/ready"),
        ports=("TRITON", "TRITON_GRPC", "TRITON_METRICS"),
        endpoint=config.endpoints.url("TRITON"),
        deadline_s=60.0,
    )


def find_workspace_dir(name: str, variable: str) -> Path:
    """Return a folder of the workspace: named by ``variable``, here, or beside the sources.

    Raises
    ------
    ConfigError
        It is in none of these places.
    """
    configured = os.environ.get(variable)
    candidates = [Path(configured)] if configured else [Path.cwd() / name]
    if not configured and len(Path(__file__).parents) > 4:
        candidates.append(Path(__file__).parents[4] / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    raise ConfigError(f"no folder {name}; run in the workspace or set {variable}")


def find_uv() -> str:
    """Return the path of uv: of this environment, of ``.tools``, or on PATH.

    Raises
    ------
    ConfigError
        There is none.
    """
    beside = Path(sys.executable).with_name("uv")
    found = shutil.which(str(beside)) or shutil.which(str(Path.cwd() / ".tools" / "uv"))
    found = found or shutil.which("uv")
    if found is None:
        raise ConfigError("uv is not installed; run 'make install', which puts it into .tools/")
    return found


def install_runtime(cache: Path) -> TritonRuntime:
    """Create the server's environment from its lock, unless it is there.

    It is apart from ours because the bundled server needs NumPy 1.
    """
    project = find_workspace_dir("triton_models", "PENSTOCK_TRITON_MODELS")
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = cache / f"triton-py{minor}-{sha256_of(project / 'uv.lock')[:12]}"
    runtime = TritonRuntime(home / "lib" / f"python{minor}" / "site-packages")
    stamp = home / "penstock-complete"
    if stamp.is_file():
        return runtime
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    environment |= {"UV_PROJECT_ENVIRONMENT": str(home), "UV_PYTHON_DOWNLOADS": "never"}
    python = getattr(sys, "_base_executable", sys.executable)
    command = [find_uv(), "sync", "--project", str(project), "--frozen", "--no-progress"]
    done = subprocess.run(
        [*command, "--python", python],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_INSTALL_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise ArtifactError(f"cannot install Triton's environment: {done.stderr[-800:]}")
    (runtime.server / "bin" / "tritonserver").chmod(0o755)
    stamp.touch()
    return runtime


def python_library_dirs() -> list[str]:
    """Return folders that may hold libpython of the running minor version, best first."""
    directory = sysconfig.get_config_var("LIBDIR")
    return [str(directory)] if directory else []


def _build_backends(runtime: TritonRuntime, target: Path) -> None:
    """Put the bundled Python backend, its stub and our backends into one folder."""
    aside = target.with_name(f"{target.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(runtime.server / "backends", aside)
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = aside / "python" / "triton_python_backend_stub"
    shutil.copy(runtime.server / "python_backend_stubs" / minor / stub.name, stub)
    stub.chmod(0o755)
    ours = find_workspace_dir("triton_models", "PENSTOCK_TRITON_MODELS") / "backends"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ours, aside, dirs_exist_ok=True, ignore=ignore)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def _prepare(config: StackConfig) -> Launch:
    runtime = install_runtime(config.cache)
    backends = config.data_dir / "triton" / "backends"
    backends.parent.mkdir(parents=True, exist_ok=True)
    config.models.mkdir(parents=True, exist_ok=True)
    _build_backends(runtime, backends)
    endpoints = config.endpoints
    flags = {
        "model-repository": config.models,
        "backend-directory": backends,
        "cache-directory": runtime.server / "caches",
        "model-control-mode": "explicit",
        # A restarted server comes back with what it served; a broken version stops no other.
        "load-model": "*",
        "exit-on-error": "false",
        "strict-readiness": "false",
        "http-address": HOST,
        "http-port": endpoints.port("TRITON"),
        "grpc-address": HOST,
        "grpc-port": endpoints.port("TRITON_GRPC"),
        "metrics-address": HOST,
        "metrics-port": endpoints.port("TRITON_METRICS"),
        "allow-gpu-metrics": "false",
        "exit-timeout-secs": 2,
    }
    argv = (str(runtime.server / "bin" / "tritonserver"),)
    libraries = [str(runtime.libraries), *python_library_dirs()]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    environment = {
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([inherited] if inherited else [])]),
        # The stub ignores PYTHONPATH; the backend extends sys.path from this.
        "PENSTOCK_TRITON_SITE_PACKAGES": str(runtime.site_packages),
    }
    return Launch((*argv, *(f"--{name}={value}" for name, value in flags.items())), environment)
