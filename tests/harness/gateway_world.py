"""A gateway of a test's own over a real model server, which can be away for it alone."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from fastapi import FastAPI
from harness.gateway_fakes import Published
from harness.outage_proxy import OutageProxy
from harness.tiny_model import MAX_ROWS, WIDTH, tiny_onnx
from harness.waiting import eventually
from penstock_inference.loaded_models import LoadedModels
from penstock_inference.metrics import InferenceFamilies, InferenceMetrics
from penstock_inference.model_link import ModelLink
from penstock_inference.pipeline import Signature
from penstock_inference.rest.app import PipelineService, create_app
from penstock_inference.scoring import LinkedScorer
from penstock_inference.settings import GatewaySettings, TritonSettings
from penstock_inference.tensors import Matrix
from penstock_inference.triton import TritonServer
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.deployment import unload
from penstock_training.publish import Deployment, find_template, publish
from prometheus_client import CollectorRegistry

PIPELINE = "tiny"
READY_S = 30.0


def expected_scores(matrix: Matrix) -> Matrix:
    """Return what the tiny model answers."""
    return np.asarray(1.0 / (1.0 + np.exp(5.0 - matrix[:, :1])), dtype=np.float32)


@dataclass(frozen=True)
class GatewayWorld:
    """A gateway and what lies behind it.

    Parameters
    ----------
    make_app
        Returns the application; takes `GatewaySettings`' fields.
    proxy
        Between the gateway and the model server.
    served_as
        The model's name there.
    """

    make_app: Callable[..., FastAPI]
    scorer: LinkedScorer
    link: ModelLink
    proxy: OutageProxy
    server: triton.InferenceServerClient
    served_as: str

    def counts(self) -> tuple[int, int]:
        """Return the model server's own count of calls and of rows."""
        (stats,) = self.server.get_inference_statistics(self.served_as).model_stats
        return int(stats.inference_stats.success.count), int(stats.inference_count)

    def settled_counts(self) -> tuple[int, int]:
        """Return the counts once no call that an earlier test gave up is still to be counted."""
        seen = [self.counts()]

        def is_settled() -> bool:
            seen.append(self.counts())
            return seen[-1] == seen[-2]

        eventually(is_settled, 10.0, "no call on its way")
        return seen[-1]

    def ask(self, rows: list[Matrix]) -> list[Matrix]:
        """Score matrices, all at once."""

        async def run() -> list[Matrix]:
            scored = await asyncio.gather(*(self.scorer.answer(None, row) for row in rows))
            return [each.scores for each in scored]

        return asyncio.run(run())


@contextmanager
def gateway_world(triton_grpc: str, models_dir: Path, timeout_s: float) -> Iterator[GatewayWorld]:
    """Publish a model and put a gateway before it.

    Parameters
    ----------
    timeout_s
        The pipeline's deadline of a call, seconds.
    """
    name = f"gateway{uuid.uuid4().hex[:8]}__1"
    template = find_template(Path(__file__))
    publish(models_dir, Deployment(name, WIDTH, MAX_ROWS, tiny_onnx()), template)
    version = ModelVersion(PIPELINE, "1", name, "champion", 100, "sha256:0", "r", "serving")
    state = RoutingState(PIPELINE, 1, time.time_ns() // 1_000_000, "test", (version,))

    def follow(stop: Any, on_state: Callable[[RoutingState], None]) -> None:
        on_state(state)
        stop.wait()

    families = InferenceFamilies(CollectorRegistry())
    metrics = InferenceMetrics(families, PIPELINE)
    with ExitStack() as stack:
        direct = triton.InferenceServerClient(triton_grpc)
        stack.callback(direct.close)
        stack.callback(shutil.rmtree, models_dir / name, ignore_errors=True)
        stack.callback(unload, triton_grpc, name)
        proxy = stack.enter_context(OutageProxy(triton_grpc))
        server = TritonServer(TritonSettings(grpc_url=proxy.address))
        stack.callback(server.close)
        link = ModelLink(follow, LoadedModels(server, WIDTH, MAX_ROWS), metrics)
        link.start()
        stack.callback(link.stop)
        config: Any = SimpleNamespace(pipeline=PIPELINE, model=SimpleNamespace(timeout_s=timeout_s))
        scorer = LinkedScorer(config, link, server, metrics)

        def make_app(**settings: Any) -> FastAPI:
            service = PipelineService(
                Signature(PIPELINE, 0.5, "gw"), WIDTH, scorer=scorer, publisher=Published(),
                vector=_no_events,
            )  # fmt: skip
            return create_app({PIPELINE: service}, GatewaySettings(**settings), families)

        eventually(lambda: link.ready, READY_S)
        yield GatewayWorld(make_app, scorer, link, proxy, direct, name)


def _no_events(body: bytes) -> Any:
    raise NotImplementedError
