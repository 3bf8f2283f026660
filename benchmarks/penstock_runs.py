"""Penstock's own rows: the services as deployed, and the router alone with one thing changed."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import psutil
import tritonclient.grpc as grpcclient
import workloads
from contenders import Contender, Place, Running
from peers import MODEL
from penstock_pipelines.loader import load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_rows import Feast, Row, Variant
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_stack.endpoints import Endpoints
from penstock_streaming import admin
from penstock_streaming.settings import KafkaSettings
from pipeline_folder import write_folder
from processes import Pids, pids_of, process
from profiles import make_store
from run_folder import await_ready, batch_fill, replicas

SERVED_AS: Final = "bench__1"
CANARY: Final = "bench__2"
LONE_ROUTER: Final = Path(__file__).parent / "lone_router.py"
LOAD_S: Final = 60.0
Launch = tuple[list[str], dict[str, str]]
SUBJECTS: Final = {"vectors": workloads.VECTOR_SCHEMA, "events": workloads.EVENT_SCHEMA}


class Penstock:
    """Starts the services on the benchmark's infrastructure.

    Parameters
    ----------
    data_dir
        For logs and pipelines.
    stack_dir
        Of the infrastructure: its model repository and Ray's token are there.
    served
        The model.
    server
        host:port and model repository of another model server than the infrastructure's.
    """

    def __init__(
        self,
        data_dir: Path,
        stack_dir: Path,
        endpoints: Endpoints,
        served: workloads.Served = workloads.SMALL,
        server: tuple[str, Path] | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._stack_dir = stack_dir
        self._feast_dir = data_dir / "feast"
        self._stores: set[Feast] = set()
        self._endpoints = endpoints
        self._served = served
        own = (endpoints.address("TRITON_GRPC"), stack_dir / "models")
        self.triton, self._models = server or own
        self._triton: list[int] = []
        self.bootstrap = endpoints.address("KAFKA")
        self._kafka = KafkaSettings(bootstrap_servers=self.bootstrap)
        self._registry_url = endpoints.url("REGISTRY", "/apis/ccompat/v7")
        self._registry = RegistryClient(RegistrySettings(url=self._registry_url))

    def prepare(self) -> dict[str, int]:
        """Load the models into Triton; return the id of each input's schema."""
        triton = grpcclient.InferenceServerClient(self.triton)
        for name, output in ((SERVED_AS, "scores"), (MODEL, "score")):
            workloads.write_triton_model(self._models, name, output, self._served)
            triton.load_model(name, client_timeout=LOAD_S)
        return {
            name: self._registry.register(f"bench.{name}-value", json.dumps(schema))
            for name, schema in SUBJECTS.items()
        }

    def tidy(self) -> None:
        """Unload the models and remove their files, where the infrastructure stays."""
        triton = grpcclient.InferenceServerClient(self.triton)
        for name in (SERVED_AS, MODEL):
            triton.unload_model(name, client_timeout=LOAD_S)
            shutil.rmtree(self._models / name, ignore_errors=True)

    def triton_pids(self) -> list[int]:
        """Return the process that listens on Triton's port; none where that is another host."""
        if not all(map(psutil.pid_exists, self._triton)) or not self._triton:
            port = self.triton.rpartition(":")[2]
            self._triton = [
                c.pid
                for c in psutil.net_connections("tcp")
                if c.laddr and str(c.laddr.port) == port and c.status == "LISTEN" and c.pid
            ]
        return self._triton

    def contenders(self, rows: Sequence[Row]) -> list[Contender]:
        """Return who runs in the rows of a table."""
        return [self._contender(row) for row in rows]

    def _contender(self, row: Row) -> Contender:
        variant = row.variant
        return Contender(
            row.name,
            "systems" if variant.serve else "costs",
            row.about,
            variant.delivery.replace("_", " "),
            "4 fields" if "prediction" in variant.without else "Prediction",
            partial(self._started, variant),
            reads="events" if variant.ingest else "vectors",
            is_ours=True,
            is_whole=variant.feast != "read",
        )

    @contextmanager
    def _started(self, variant: Variant, place: Place) -> Iterator[Running]:
        folder = self._data_dir / "pipelines" / place.tag
        write_folder(folder, place, variant)
        if variant.feast:
            self._lend_store(folder, variant.feast)
        self.make_topics(folder, place)
        run_dir = self._data_dir / "run" / place.tag
        run_dir.mkdir(parents=True)
        port = self._endpoints.port("INFERENCE")
        argv, environment = self._inference(variant, folder, run_dir)
        log = self._data_dir / f"{place.tag}.log"
        asked: list[Pids] = [self.triton_pids]
        if variant.serve:
            asked.append(lambda: replicas(port))
        with ExitStack() as stack:
            inference = stack.enter_context(process(argv, environment, log))
            asked.append(pids_of(inference, log))
            if variant.ingest:
                # Else ingest would be far ahead, and inference be measured on its backlog.
                await_ready(port, asked[-1])
                argv, environment = self._ingest(variant, folder, run_dir / "ingest")
                log = self._data_dir / f"{place.tag}-ingest.log"
                ingest = stack.enter_context(process(argv, environment, log))
                asked.append(pids_of(ingest, log))
            yield Running(lambda: [p for pids in asked for p in pids()], lambda: batch_fill(port))

    def _lend_store(self, folder: Path, feast: Feast) -> None:
        """Let a run read the store of its kind, which is filled once."""
        store = self._data_dir / "profiles" / feast
        if feast not in self._stores:
            make_store(folder, store)
            self._stores.add(feast)
        own = self._feast_dir / folder.name
        own.parent.mkdir(exist_ok=True)
        own.symlink_to(store)

    def _ingest(self, variant: Variant, folder: Path, run_dir: Path) -> Launch:
        ours = self.common("PENSTOCK_INGEST_", variant, folder, run_dir)
        ours["PENSTOCK_INGEST_METRICS_PORT"] = "0"
        return [sys.executable, "-m", "penstock_ingest"], ours

    def _inference(self, variant: Variant, folder: Path, run_dir: Path) -> Launch:
        prefix = "PENSTOCK_INFERENCE_"
        ours = self.common(prefix, variant, folder, run_dir)
        ours[f"{prefix}TRITON__GRPC_URL"] = self.triton
        ours[f"{prefix}METRICS_PORT"] = str(self._endpoints.port("INFERENCE"))
        if not variant.serve:
            ours |= {"BENCH_WITHOUT": variant.without, "OMP_NUM_THREADS": "1"}
            return [sys.executable, str(LONE_ROUTER)], ours
        ours |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._stack_dir / "ray-token"),
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            f"{prefix}GATEWAY_PORT": str(self._endpoints.port("GATEWAY")),
            f"{prefix}RAY_ADDRESS": self._endpoints.address("RAY_GCS"),
        }
        return [sys.executable, "-m", "penstock_inference"], ours

    def common(self, prefix: str, variant: Variant, folder: Path, run_dir: Path) -> dict[str, str]:
        """Return the settings that ingest and inference share."""
        return {
            f"{prefix}KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            f"{prefix}REGISTRY__URL": self._registry_url,
            f"{prefix}PIPELINES": json.dumps([str(folder)]),
            f"{prefix}FEAST_DIR": str(self._feast_dir),
            f"{prefix}RUN_DIR": str(run_dir),
            f"{prefix}LOOP__DELIVERY": variant.delivery,
        }

    def make_topics(self, folder: Path, place: Place) -> None:
        """Make a pipeline's topics and order its routers to serve the model."""
        names = load_pipeline(folder).config.topic_names
        made = {names.models, names.features, names.ingest_state}
        made |= {names.dead_letter(names.events), names.dead_letter(names.features)}
        wanted = [t for t in names.all(workloads.PARTITIONS) if t.name in made - {place.source}]
        admin.apply(self._kafka, self._registry, wanted, {})
        version = ModelVersion("bench", "1", SERVED_AS, "champion", 100, "", "", "serving")
        routing = RoutingTopic(self._kafka, self._registry, names.models, place.tag)
        now = time.time_ns() // 1_000_000
        routing.write(lambda _: RoutingState(place.tag, 1, now, "bench", (version,)), timeout_s=30)

    def add_canary(self, folder: Path, tag: str, weight: int) -> None:
        """Serve the same model as version 2, to a share of the keys."""
        workloads.write_triton_model(self._models, CANARY, "scores", self._served)
        grpcclient.InferenceServerClient(self.triton).load_model(CANARY, client_timeout=LOAD_S)
        names = load_pipeline(folder).config.topic_names
        routing = RoutingTopic(self._kafka, self._registry, names.models, tag)
        canary = ModelVersion("bench", "2", CANARY, "canary", weight, "", "", "canary")

        def with_canary(state: RoutingState | None) -> RoutingState:
            if state is None:
                raise RuntimeError(f"{names.models}: no routing state")
            (champion,) = state.versions
            shared = (replace(champion, weight=100 - weight), canary)
            return replace(state, revision=state.revision + 1, versions=shared)

        routing.write(with_canary, timeout_s=30)
