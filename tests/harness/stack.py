"""A running embedded stack as tests see it: only its command line and its endpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil
from harness.faults import kill

PENSTOCK: Final = Path(sys.executable).parent / "penstock"
UP_TIMEOUT_S: Final = 300.0
DOWN_TIMEOUT_S: Final = 60.0

KEPT: Final = ("PENSTOCK_TEST_", "PENSTOCK_DATASETS")


def is_setting(name: str) -> bool:
    """Tell whether an environment variable is a setting of the caller's, not of the test run."""
    return name == "MODEL_THRESHOLD" or (name.startswith("PENSTOCK_") and not name.startswith(KEPT))


class CommandFailed(AssertionError):
    """A `penstock` command that should have worked did not."""


def penstock(*arguments: str, timeout_s: float = 60.0, check: bool = True) -> str:
    """Run a `penstock` command and return its standard output.

    Raises
    ------
    CommandFailed
        If it exits with another code than 0 and ``check`` is set, or does not end in time.
    """
    command = [str(PENSTOCK), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as exc:
        raise CommandFailed(f"{command} took longer than {timeout_s} s\n{exc.stderr!r}") from exc
    if check and done.returncode != 0:
        raise CommandFailed(f"{command} exits {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


@cache
def endpoints(data_dir: Path) -> dict[str, str]:
    """Return the address of each component; they stay the same while the stack lives."""
    components = Stack(data_dir).status()["components"]
    return {c["name"]: str(c["endpoint"]).rstrip("/") for c in components}


@dataclass(frozen=True)
class Stack:
    """An embedded stack, by its data directory."""

    data_dir: Path

    @classmethod
    def start(cls, data_dir: Path, port_offset: int, pipelines: tuple[Path, ...] = ()) -> Stack:
        """Start a stack, or resume one whose supervisor is gone, and wait until it is ready.

        One that does not become ready is stopped: its parts are processes of their own.
        """
        named = [part for folder in pipelines for part in ("--pipeline", str(folder))]
        place = ("--data-dir", str(data_dir), "--port-offset", str(port_offset))
        started = cls(data_dir)
        try:
            penstock("up", "--detach", *place, *named, timeout_s=UP_TIMEOUT_S)
        except BaseException:  # a test's time-out is none of the errors
            with suppress(CommandFailed):
                started.stop()
            raise
        return started

    @classmethod
    @contextmanager
    def running(
        cls, data_dir: Path, port_offset: int, pipelines: tuple[Path, ...]
    ) -> Iterator[Stack]:
        """Run a stack for the time of the block."""
        started = cls.start(data_dir, port_offset, pipelines)
        try:
            yield started
        finally:
            started.stop()

    def stop(self) -> None:
        """Stop everything."""
        penstock("down", "--data-dir", str(self.data_dir), timeout_s=DOWN_TIMEOUT_S)

    def status(self) -> dict[str, Any]:
        """Return what `penstock status` says."""
        text = penstock("-o", "json", "status", "--data-dir", str(self.data_dir), check=False)
        found: dict[str, Any] = json.loads(text)
        return found

    def component(self, name: str) -> dict[str, Any]:
        """Return a component of the status."""
        for component in self.status()["components"]:
            if component["name"] == name:
                return dict(component)
        raise AssertionError(f"status knows no component {name}")

    def unwell(self) -> list[str]:
        """Return the components that are not ready."""
        return [
            f"{c['name']} is {c['state']}"
            for c in self.status()["components"]
            if c["state"] != "ready"
        ]

    def pids(self, component: str) -> list[int]:
        """Return the process ids of a component; of inference, those of its replicas."""
        return [int(pid) for pid in self.component(component)["pids"]]

    def replicas(self, pipeline: str) -> list[int]:
        """Return the process ids of a pipeline's router replicas that take records."""
        files = (self.run_dir / "inference-replicas").glob("*.json")
        facts = [json.loads(path.read_text()) for path in files]
        return sorted(
            f["pid"]
            for f in facts
            if f["pipeline"] == pipeline and f.get("ready", True) and psutil.pid_exists(f["pid"])
        )

    def scale(self, pipeline: str, replicas: int) -> None:
        """Ask inference for a number of router replicas."""
        path = self.run_dir / "inference-scale.json"
        wanted = json.loads(path.read_text()) if path.exists() else {}
        aside = path.with_suffix(".test")
        aside.write_text(json.dumps({**wanted, pipeline: replicas}))
        aside.replace(path)

    def supervisor(self) -> psutil.Process:
        """Return the process that keeps the components up."""
        for process in self.processes():
            words = process.cmdline()
            if "up" in words and str(self.data_dir) in words and "--detach" not in words:
                return process
        raise AssertionError("no supervisor runs")

    def kill(self, component: str) -> list[int]:
        """Kill the processes of a component with -9; return their ids."""
        pids = self.pids(component)
        assert pids, f"{component} has no process"
        kill(pids)
        return pids

    def _endpoint(self, component: str) -> str:
        return endpoints(self.data_dir)[component]

    @property
    def kafka_bootstrap(self) -> str:
        """Bootstrap servers of Kafka."""
        return self._endpoint("kafka")

    @property
    def registry_url(self) -> str:
        """Base URL of the Confluent-compatible schema API."""
        endpoint = self._endpoint("registry")
        return endpoint if "/apis/" in endpoint else f"{endpoint}/apis/ccompat/v7"

    @property
    def triton_http_url(self) -> str:
        """Triton's HTTP address."""
        return self._endpoint("triton")

    @property
    def triton_grpc_url(self) -> str:
        """Triton's gRPC address, host:port: one above HTTP."""
        host, port = self.triton_http_url.removeprefix("http://").rsplit(":", 1)
        return f"{host}:{int(port) + 1}"

    @property
    def gateway_url(self) -> str:
        """Address of the REST gateway."""
        return self._endpoint("gateway")

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return self._endpoint("mlflow")

    @property
    def models_dir(self) -> Path:
        """Triton's live model repository."""
        return self.data_dir / "models"

    @property
    def run_dir(self) -> Path:
        """Folder of facts about running processes."""
        return self.data_dir / "run"

    @property
    def feast_dir(self) -> Path:
        """Root of the feature stores, one folder per pipeline."""
        return self.data_dir / "feast"

    def processes(self) -> list[psutil.Process]:
        """Return every process that names the data directory, as an argument or a variable."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and self._owns(p)]

    def left(self) -> list[str]:
        """Return the commands of these processes."""
        return [" ".join(process.cmdline())[:200] for process in self.processes()]

    def _owns(self, process: psutil.Process) -> bool:
        mark = str(self.data_dir)
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:  # gone, or another user's
            return False
        return any(mark in word for word in words)
