"""What the Open Inference Protocol v2 tells of a server and of its models. Pure.

References
----------
Open Inference Protocol, HTTP/REST; Triton's model configuration and model repository extensions.
"""

from __future__ import annotations

from typing import Any, Final

from penstock_inference.routing import Route
from penstock_inference.triton import DTYPE, INPUT, OUTPUT

PLATFORM: Final = "penstock"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration")
CONFIG_TYPE: Final = "TYPE_FP32"
"""The tensors' type as a model configuration writes it."""


def server_metadata(version: str) -> dict[str, Any]:
    """Return the metadata of the gateway."""
    return {"name": PLATFORM, "version": version, "extensions": list(EXTENSIONS)}


def metadata(pipeline: str, route: Route, versions: list[str]) -> dict[str, Any]:
    """Return the metadata of a pipeline's model."""
    model = route.model
    return {
        "name": pipeline,
        "versions": versions,
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": DTYPE, "shape": [-1, model.width]}],
        "outputs": [{"name": OUTPUT, "datatype": DTYPE, "shape": [-1, model.score_width]}],
    }


def config(pipeline: str, route: Route, max_rows: int) -> dict[str, Any]:
    """Return the configuration of a pipeline's model: what a stock client needs to build requests.

    Parameters
    ----------
    max_rows
        Most rows of one request.
    """
    model = route.model
    return {
        "name": pipeline,
        "platform": PLATFORM,
        "max_batch_size": max_rows,
        "input": [{"name": INPUT, "data_type": CONFIG_TYPE, "dims": [model.width]}],
        "output": [{"name": OUTPUT, "data_type": CONFIG_TYPE, "dims": [model.score_width]}],
    }


def index_entry(pipeline: str, version: str, trouble: str) -> dict[str, str]:
    """Return a version's entry in the index of models.

    Parameters
    ----------
    trouble
        Why it does not answer; empty where it does.

    Examples
    --------
    >>> index_entry("fraud", "3", "")
    {'name': 'fraud', 'version': '3', 'state': 'READY', 'reason': ''}
    """
    state = "UNAVAILABLE" if trouble else "READY"
    return {"name": pipeline, "version": version, "state": state, "reason": trouble}
