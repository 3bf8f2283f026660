"""The embedded server's ONNX backend, with the server's Python module replaced by a small fake."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

BACKEND = Path(__file__).parents[3] / "triton_models" / "backends" / "onnxruntime" / "model.py"
TYPES = {"TYPE_FP32": np.float32, "TYPE_FP64": np.float64}
WIDTH = 3


class TritonModelException(Exception):
    """As the server's."""


class TritonError(Exception):
    """As the server's."""


class Tensor:
    """A named array that crosses by DLPack, as the server's."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.name, self.array = name, array

    @classmethod
    def from_dlpack(cls, name: str, array: Any) -> Tensor:
        return cls(name, np.from_dlpack(array))

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def fake_server() -> ModuleType:
    module = ModuleType("triton_python_backend_utils")
    facts: dict[str, Any] = {
        "TritonModelException": TritonModelException,
        "TritonError": TritonError,
        "Tensor": Tensor,
        "InferenceResponse": lambda output_tensors, error=None: SimpleNamespace(
            tensors=output_tensors, error=error
        ),
        "triton_string_to_numpy": TYPES.__getitem__,
        "get_input_tensor_by_name": lambda request, name: next(
            (t for t in request if t.name == name), None
        ),
    }
    vars(module).update(facts)
    return module


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_server())
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", BACKEND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def repository(root: Path, width: int | str = WIDTH) -> Path:
    """Write a model that sums each row."""
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["features", "axes"], ["scores"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    opset = [helper.make_opsetid("", 17)]
    (root / "1").mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=opset, ir_version=9), root / "1" / "model.onnx"
    )
    return root


def arguments(root: Path, width: int = WIDTH, dtype: str = "TYPE_FP32") -> dict[str, str]:
    config = {
        "max_batch_size": 64,
        "input": [{"name": "features", "data_type": dtype, "dims": [str(width)]}],
        "output": [{"name": "scores", "data_type": "TYPE_FP32", "dims": ["1"]}],
    }
    return {
        "model_config": json.dumps(config),
        "model_repository": str(root),
        "model_version": "1",
    }


def test_merged_requests_get_their_own_rows_back(
    backend: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    backend.initialize(arguments(repository(tmp_path)))
    arrays = [rng.random((rows, WIDTH), dtype=np.float32) for rows in (1, 5, 2, 17)]
    responses = backend.execute([[Tensor("features", array)] for array in arrays])
    for array, response in zip(arrays, responses, strict=True):
        assert response.error is None
        (scores,) = response.tensors
        assert scores.name == "scores"
        np.testing.assert_allclose(scores.array, array.sum(axis=1, keepdims=True), rtol=1e-5)
    backend.finalize()


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [Tensor("other", np.zeros((1, WIDTH), np.float32))],
        [Tensor("features", np.zeros((1, WIDTH + 1), np.float32))],
        [Tensor("features", np.zeros((1, WIDTH), np.float64))],
        [Tensor("features", np.zeros(WIDTH, np.float32))],
    ],
)
def test_wrong_request_fails_alone(backend: Any, tmp_path: Path, bad: list[Tensor]) -> None:
    backend.initialize(arguments(repository(tmp_path)))
    good = [Tensor("features", np.ones((2, WIDTH), np.float32))]
    first, failed, last = backend.execute([good, bad, good])
    assert failed.error is not None
    assert not failed.tensors
    for response in (first, last):
        assert response.error is None
        assert response.tensors[0].array.tolist() == [[WIDTH], [WIDTH]]


def test_request_that_the_model_fails_on_fails_alone(backend: Any, tmp_path: Path) -> None:
    backend.initialize(arguments(repository(tmp_path)))
    run = backend._session.run

    def picky(names: Any, feeds: dict[str, Any]) -> Any:
        if (feeds["features"] == 13).any():
            raise RuntimeError("unlucky")
        return run(names, feeds)

    backend._session = SimpleNamespace(run=picky)
    values = (1.0, 13.0, 2.0)
    requests = [[Tensor("features", np.full((1, WIDTH), v, np.float32))] for v in values]
    responses = backend.execute(requests)
    assert [r.error is not None for r in responses] == [False, True, False]
    assert [r.tensors[0].array.item() for r in (responses[0], responses[2])] == [3.0, 6.0]


@pytest.mark.parametrize(
    ("width", "dtype", "what"),
    [(WIDTH + 1, "TYPE_FP32", "features"), (WIDTH, "TYPE_FP64", "features")],
)
def test_file_that_is_not_what_the_configuration_says(
    backend: Any, tmp_path: Path, width: int, dtype: str, what: str
) -> None:
    with pytest.raises(TritonModelException, match=what):
        backend.initialize(arguments(repository(tmp_path), width, dtype))


def test_missing_file_is_named(backend: Any, tmp_path: Path) -> None:
    with pytest.raises(TritonModelException, match=r"model\.onnx"):
        backend.initialize(arguments(tmp_path))
