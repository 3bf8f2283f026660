"""A Ray head of a test's own with the real inference service on it: settings are the test's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.bare_router import PREFIX, ServicePlaces
from harness.child import child
from harness.infrastructure import infrastructure
from harness.machine import free_offset
from harness.waiting import eventually
from penstock_inference.replicas import live_replicas
from penstock_stack.artifacts import cache_dir
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.ray_head import ray_environment, ray_temp_dir

START_S: Final = 120.0


@dataclass
class ServeService:
    """The inference service on its own Ray.

    Parameters
    ----------
    root
        A folder of its own.
    folder
        The pipeline's.
    extra
        More settings, by the full names of their variables.
    """

    places: ServicePlaces
    root: Path
    folder: Path
    extra: Mapping[str, str]

    @contextmanager
    def running(self) -> Iterator[ServeService]:
        """Start Ray and the service; end both."""
        offset = free_offset()
        endpoints = Endpoints.from_environment({}, offset)
        config = StackConfig(
            self.root / "stack", cache_dir(os.environ), endpoints, port_offset=offset
        )
        with infrastructure(config.data_dir, offset, "ray"):
            environment = os.environ | ray_environment(config) | self._settings(endpoints)
            command = [sys.executable, "-m", "penstock_inference"]
            with child(command, environment, self.root / "inference.txt"):
                eventually(lambda: self.ready == 1, START_S, "a router takes records")
                yield self
        assert not ray_temp_dir(config.data_dir).exists(), "Ray has left something"

    @property
    def run_dir(self) -> Path:
        """Folder of facts about the replicas."""
        return self.root / "run"

    @property
    def ready(self) -> int:
        """Router replicas that take records."""
        return sum(facts.ready for facts in live_replicas(self.run_dir)[0])

    @property
    def replicas(self) -> int:
        """Router replicas that there are."""
        return len(live_replicas(self.run_dir)[0])

    def _settings(self, endpoints: Endpoints) -> dict[str, str]:
        return {
            f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS": self.places.kafka,
            f"{PREFIX}REGISTRY__URL": self.places.registry,
            f"{PREFIX}TRITON__GRPC_URL": self.places.triton_grpc,
            f"{PREFIX}PIPELINES": f'["{self.folder}"]',
            f"{PREFIX}RUN_DIR": str(self.run_dir),
            f"{PREFIX}FEAST_DIR": str(self.root / "feast"),
            f"{PREFIX}RAY_ADDRESS": endpoints.address("RAY_GCS"),
            f"{PREFIX}GATEWAY_PORT": str(endpoints.port("GATEWAY")),
            f"{PREFIX}METRICS_PORT": str(endpoints.port("INFERENCE")),
            f"{PREFIX}LOOP__SESSION_TIMEOUT_S": "6",
            **self.extra,
        }
