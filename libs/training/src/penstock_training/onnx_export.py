"""Fitted models as ONNX, with the one signature that the model server knows.

Input ``features`` FP32 [-1, n]; output ``scores`` FP32 [-1, 1], the probability of class 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, utils
from penstock_schemas.errors import ConfigError, PenstockError

from penstock_training.trainers import FittedModel, Matrix, Vector

INPUT: Final = "features"
OUTPUT: Final = "scores"
TOLERANCE: Final = 1e-4
"""Largest difference allowed between the exported and the native model."""
PARITY_ROWS: Final = 10_000
_OPSET: Final = {"": 17, "ai.onnx.ml": 3}  # known to every runtime since 2022


class ParityError(PenstockError):
    """The exported model answers differently from the native one."""


def to_onnx(model: FittedModel) -> onnx.ModelProto:
    """Return the model as an ONNX graph, checked."""
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType

    classifier = model.estimator.steps[-1][1]
    graph = convert(
        model.estimator,
        initial_types=[(INPUT, FloatTensorType([None, model.features]))],
        options={id(classifier): {"zipmap": False}},
        target_opset=_OPSET,
    )
    return _only_scores(graph, model.features)


def _only_scores(model: onnx.ModelProto, features: int) -> onnx.ModelProto:
    """Replace the outputs (label, both probabilities) by the probability of class 1."""
    graph = model.graph
    graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [1], [1]))
    probabilities = graph.output[1].name
    graph.node.append(helper.make_node("Gather", [probabilities, "class_1"], [OUTPUT], axis=1))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1]))
    # What only the label needed goes.
    small = utils.Extractor(model).extract_model([INPUT], [OUTPUT])
    small.producer_name = "penstock"
    small.ClearField("doc_string")
    onnx.checker.check_model(small, full_check=True)
    shape = [d.dim_value for d in small.graph.input[0].type.tensor_type.shape.dim]
    if shape[-1] != features:
        raise ConfigError(f"exported model: expected {features} features, got {shape[-1]}")
    return small


def onnx_scores(model: bytes, matrix: Matrix) -> Vector:
    """Run an ONNX model here, on the CPU.

    Returns
    -------
    Probability of class 1 per row, shape (n,).
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    answer = session.run([OUTPUT], {INPUT: np.asarray(matrix, dtype=np.float32)})[0]
    scores: Vector = answer[:, 0].astype(np.float64)
    return scores


def check_parity(native: FittedModel, exported: bytes, matrix: Matrix) -> float:
    """Compare the exported with the native model on at least `PARITY_ROWS` rows.

    Parameters
    ----------
    matrix
        Real rows, shape (n, d). Where they are too few, rows with noise of their own spread are
        added.

    Returns
    -------
    The largest difference of the probabilities.

    Raises
    ------
    ParityError
        If it is larger than `TOLERANCE`.
    """
    rows = np.asarray(matrix, dtype=np.float32)
    if len(rows) < PARITY_ROWS:
        rng = np.random.default_rng(0)
        more = rows[rng.integers(0, len(rows), PARITY_ROWS - len(rows))]
        noise = rng.normal(0.0, 0.5, more.shape) * rows.std(axis=0)
        rows = np.concatenate([rows, (more + noise).astype(np.float32)])
    difference = float(np.abs(native.scores(rows) - onnx_scores(exported, rows)).max())
    if not difference <= TOLERANCE:
        raise ParityError(
            f"exported model differs from the native one by {difference:.2e} "
            f"on {len(rows)} rows; {TOLERANCE:.0e} is allowed"
        )
    return difference
