"""The embedded Ray head node."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sys
from pathlib import Path

from penstock_stack import probes
from penstock_stack.component import Component, Launch, StackConfig
from penstock_stack.endpoints import HIDDEN_PORTS, HOST

LOGICAL_CPUS = 4
"""Ray counts CPUs, it does not bind them; replicas and jobs must fit on two real cores."""
_LESS = ("--disable-usage-stats", "--include-log-monitor=false")
"""Nobody reads workers' output through a driver: their logs are files."""
OBJECT_STORE_BYTES = 200 * 1024 * 1024


def ray_temp_dir(data_dir: Path) -> Path:
    """Return Ray's own folder, short because its socket paths must stay below 108 bytes."""
    return Path("/tmp") / f"ps-{hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]}"  # noqa: S108


def ray_environment(config: StackConfig) -> dict[str, str]:
    """Return what every process that talks to this Ray needs in its environment."""
    return {
        "RAY_ADDRESS": config.endpoints.address("RAY_GCS"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(config.data_dir / "ray-token"),
        # Under `uv run` Ray would rebuild the environment for each worker.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # Idle workers at start cost seconds of two cores and serve nobody.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        # Replicas are the hot path; by default Ray lets them stand back for everything else.
        "RAY_worker_niceness": "0",
        # setproctitle would overwrite the environment by which `down` recognises workers.
        "SPT_NOENV": "1",
    }


def ray_head(config: StackConfig) -> Component:
    """Return the head node's component."""
    answering = ("RAY_GCS", "RAY_NODE_MANAGER", "RAY")
    hidden = tuple(name for name in HIDDEN_PORTS if name.startswith("RAY_"))
    # Written as the last step of a start; the ports answer long before.
    started = ray_temp_dir(config.data_dir) / "ray_current_cluster"

    def is_ready() -> bool:
        return started.exists() and all(
            probes.tcp_open(config.endpoints.port(name)) for name in answering
        )

    return Component(
        name="ray",
        prepare=lambda: _prepare(config),
        is_ready=is_ready,
        on_stopped=lambda: _keep_logs(config),
        ports=("RAY", *hidden),
        endpoint=config.endpoints.url("RAY"),
        deadline_s=90.0,
    )


def _prepare(config: StackConfig) -> Launch:
    token = config.data_dir / "ray-token"
    if not token.is_file():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), "ascii")
    temp = ray_temp_dir(config.data_dir)
    _keep_logs(config)  # of a session that nobody stopped
    config.logs.mkdir(parents=True, exist_ok=True)
    (config.logs / "ray").symlink_to(temp / "session_latest" / "logs")
    port = config.endpoints.port
    workers = config.endpoints.span("RAY_WORKERS")
    flags = {
        "node-ip-address": HOST,
        "port": port("RAY_GCS"),
        "node-manager-port": port("RAY_NODE_MANAGER"),
        "object-manager-port": port("RAY_OBJECT_MANAGER"),
        "ray-client-server-port": port("RAY_CLIENT"),
        "dashboard-host": HOST,
        "dashboard-port": port("RAY"),
        "dashboard-agent-listen-port": port("RAY_AGENT"),
        "dashboard-agent-grpc-port": port("RAY_AGENT_GRPC"),
        "metrics-export-port": port("RAY_METRICS"),
        "runtime-env-agent-port": port("RAY_RUNTIME_ENV"),
        "min-worker-port": workers[0],
        "max-worker-port": workers[-1],
        "num-cpus": LOGICAL_CPUS,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": temp,
    }
    ray = str(Path(sys.executable).with_name("ray"))
    argv = (ray, "start", "--head", "--block", *(f"--{k}={v}" for k, v in flags.items()))
    environment = ray_environment(config)
    del environment["RAY_ADDRESS"]  # `ray start --head` refuses to start with an address
    return Launch((sys.executable, *argv, *_LESS), environment)


def _keep_logs(config: StackConfig) -> None:
    """Move the logs of the last session to where all logs are, and remove Ray's own folder.

    While Ray runs, ``logs/ray`` is a link into that folder; afterwards, as ``logs/ray-last``, they
    are files.
    """
    temp = ray_temp_dir(config.data_dir)
    link, kept = config.logs / "ray", config.logs / "ray-last"
    link.unlink(missing_ok=True)
    session = temp / "session_latest" / "logs"
    if session.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(session, kept, ignore_dangling_symlinks=True)
    shutil.rmtree(temp, ignore_errors=True)
