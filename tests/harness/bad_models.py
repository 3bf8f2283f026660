"""New versions of the tiny model that somebody should not have published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from harness.fault_world import FaultWorld
from harness.tiny_model import MAX_ROWS, TIMEOUT_S, WIDTH, unserve
from onnx import TensorProto, helper, numpy_helper
from penstock_registry.client import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_streaming.settings import KafkaSettings
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import digest_of

KINDS: Final = ("not a number", "does not load", "other width", "two scores")


def bad_model(kind: str) -> tuple[int, bytes]:
    """Return (features it takes, file) of a version that is bad in one of `KINDS`."""
    if kind == "does not load":
        return WIDTH, b"not a model"
    if kind == "other width":
        return WIDTH + 1, _onnx(np.zeros((WIDTH + 1, 1), np.float32))
    if kind == "two scores":
        return WIDTH, _onnx(np.zeros((WIDTH, 2), np.float32))
    return WIDTH, _onnx(np.full((WIDTH, 1), np.nan, np.float32))


def _onnx(weights: np.ndarray) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["scores"])],
        "bad",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class Rollout:
    """Orders versions of a world's pipeline, as the trigger's job or an operator does."""

    def __init__(self, world: FaultWorld) -> None:
        self._world = world
        places = world.places
        self._routing = RoutingTopic(
            KafkaSettings(bootstrap_servers=places.kafka),
            RegistryClient(RegistrySettings(url=places.registry)),
            world.topics.models,
            world.name,
        )

    def publish(self, kind: str) -> ModelVersion:
        """Put a bad version 2 into the repository, not loaded."""
        world, name = self._world, served_name(self._world.name, "2")
        width, content = bad_model(kind)
        template = find_template(Path(__file__))
        publish(world.places.models_dir, Deployment(name, width, MAX_ROWS, content), template)
        return ModelVersion(
            world.name, "2", name, "canary", 0, digest_of(content), "none", "canary"
        )

    def canary(self, version: ModelVersion, weight: int) -> None:
        """Give a version a share of the keys beside the champion."""

        def make(state: RoutingState | None) -> RoutingState:
            assert state is not None
            champion = replace(state.versions[0], weight=100 - weight)
            beside = replace(version, weight=weight)
            return replace(state, revision=state.revision + 1, versions=(champion, beside))

        self._routing.write(make, TIMEOUT_S)

    def champion(self, version: ModelVersion) -> None:
        """Have a version take the place of the champion."""

        def make(state: RoutingState | None) -> RoutingState:
            assert state is not None
            wanted = replace(version, alias="champion", state="serving", weight=100)
            old = [
                replace(v, alias="", state="draining", weight=0)
                for v in state.versions
                if v.version != version.version
            ]
            return replace(state, revision=state.revision + 1, versions=(wanted, *old))

        self._routing.write(make, TIMEOUT_S)

    def close(self) -> None:
        """Unload version 2 and remove its files."""
        unserve(self._world.places, served_name(self._world.name, "2"))
