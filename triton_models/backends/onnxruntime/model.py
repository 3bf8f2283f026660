"""A Triton backend named ``onnxruntime``, written in Python.

The embedded server ships no native ONNX backend. This one takes its name and its repository layout
(``<model>/<version>/model.onnx``), so that the same repository runs unchanged on a server that has
the native backend. One instance runs one session with one thread; the requests that the server
hands over together become one run.

Tensors cross by DLPack: the server's own NumPy conversion returns empty outputs with NumPy 2.

Environment
-----------
PENSTOCK_TRITON_SITE_PACKAGES
    site-packages of the server's environment. The server's Python stub ignores PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

_SITE_PACKAGES = os.environ.get("PENSTOCK_TRITON_SITE_PACKAGES")
if _SITE_PACKAGES and _SITE_PACKAGES not in sys.path:
    # In front: the stub's own interpreter may carry another NumPy.
    sys.path.insert(0, _SITE_PACKAGES)

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

_ONNX_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(bool)": "TYPE_BOOL",
}


class TritonPythonModel:
    """One instance of one version of one model."""

    def initialize(self, args):
        """Load the file and check it against config.pbtxt.

        Parameters
        ----------
        args
            The server's arguments: model_config (JSON), model_repository (the model's folder) and
            model_version among them.

        Raises
        ------
        pb_utils.TritonModelException
            The file is missing, broken, or its inputs and outputs are not the configuration's.
        """
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            raise pb_utils.TritonModelException(f"cannot load {path}: {exc}") from exc
        self._batched = config["max_batch_size"] > 0
        self._inputs = [self._port(p) for p in config["input"]]
        self._outputs = [self._port(p) for p in config["output"]]
        self._output_names = [name for name, _, _ in self._outputs]
        _check_ports("input", self._inputs, self._session.get_inputs())
        _check_ports("output", self._outputs, self._session.get_outputs())

    def _port(self, port):
        """Return (name, NumPy type, shape) of an input or output; -1 is any size."""
        dims = tuple(int(d) for d in port["dims"])
        dtype = np.dtype(pb_utils.triton_string_to_numpy(port["data_type"]))
        return port["name"], dtype, ((-1, *dims) if self._batched else dims)

    def execute(self, requests):
        """Answer all requests with one run.

        Parameters
        ----------
        requests
            What the server hands over, at most ``max_batch_size`` rows together.

        Returns
        -------
        One response per request, in order. A request with a wrong tensor gets an error of its own;
        where the merged run fails, each request is run alone so that only the guilty one fails.
        """
        responses = [None] * len(requests)
        good = []
        for index, request in enumerate(requests):
            try:
                good.append((index, self._feeds(request)))
            except ValueError as exc:
                responses[index] = _error(str(exc))
        for group in self._groups(good):
            self._answer(group, responses)
        return responses

    def _groups(self, good):
        """Return lists of (index, feeds) that may share a run: same shape but for the rows."""
        if not self._batched:
            return [[entry] for entry in good]
        by_shape = {}
        for entry in good:
            key = tuple(feed.shape[1:] for feed in entry[1])
            by_shape.setdefault(key, []).append(entry)
        return list(by_shape.values())

    def _feeds(self, request):
        """Return the request's arrays in the order of the configuration, checked."""
        feeds = []
        for name, dtype, shape in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise ValueError(f"input {name!r} is missing")
            array = np.from_dlpack(tensor)
            if array.dtype != dtype:
                raise ValueError(f"input {name!r}: expected {dtype}, got {array.dtype}")
            _check_shape("input", name, shape, array.shape)
            feeds.append(array)
        return feeds

    def _answer(self, group, responses):
        """Run a group merged and split the answer; fall back to one run per request."""
        merged = (
            group[0][1]
            if len(group) == 1
            else [np.concatenate(column) for column in zip(*(f for _, f in group), strict=True)]
        )
        try:
            outputs = self._run(merged)
        except Exception as exc:
            if len(group) == 1:
                responses[group[0][0]] = _error(f"the model failed: {exc}")
                return
            for entry in group:
                self._answer([entry], responses)
            return
        start = 0
        for index, feeds in group:
            stop = start + feeds[0].shape[0] if len(group) > 1 else None
            tensors = [
                pb_utils.Tensor.from_dlpack(name, np.ascontiguousarray(output[start:stop]))
                for name, output in zip(self._output_names, outputs, strict=True)
            ]
            responses[index] = pb_utils.InferenceResponse(output_tensors=tensors)
            start = stop

    def _run(self, feeds):
        """Run the session; return outputs with the configuration's types and shapes."""
        names = [name for name, _, _ in self._inputs]
        outputs = self._session.run(self._output_names, dict(zip(names, feeds, strict=True)))
        rows = feeds[0].shape[0] if self._batched else None
        for (name, dtype, shape), output in zip(self._outputs, outputs, strict=True):
            if output.dtype != dtype:
                raise ValueError(f"output {name!r}: expected {dtype}, got {output.dtype}")
            _check_shape(
                "output", name, shape if rows is None else (rows, *shape[1:]), output.shape
            )
        return outputs

    def finalize(self):
        """Let go of the session."""
        self._session = None


def _error(message):
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))


def _check_shape(kind, name, expected, got):
    """Raise ValueError unless ``got`` fits ``expected``, where -1 is any size."""
    fits = len(expected) == len(got) and all(
        e in (-1, g) for e, g in zip(expected, got, strict=True)
    )
    if not fits:
        raise ValueError(f"{kind} {name!r}: expected shape {list(expected)}, got {list(got)}")


def _check_ports(kind, configured, actual):
    """Raise TritonModelException unless the file has every configured port with its type."""
    by_name = {port.name: port for port in actual}
    for name, dtype, shape in configured:
        port = by_name.get(name)
        if port is None:
            raise pb_utils.TritonModelException(f"the file has no {kind} {name!r}")
        triton_type = _ONNX_TYPES.get(port.type)
        if triton_type is None or np.dtype(pb_utils.triton_string_to_numpy(triton_type)) != dtype:
            raise pb_utils.TritonModelException(
                f"{kind} {name!r}: config.pbtxt says {dtype}, the file says {port.type}"
            )
        # A dimension of the file is an int, or a name or None where it is free.
        known = [d if isinstance(d, int) else -1 for d in port.shape]
        if len(known) != len(shape) or any(
            -1 not in (k, s) and k != s for k, s in zip(known, shape, strict=True)
        ):
            raise pb_utils.TritonModelException(
                f"{kind} {name!r}: config.pbtxt says {list(shape)}, the file says {port.shape}"
            )
