"""The first calls to a version are ours, not the stream's: before it is given any traffic."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from penstock_schemas.errors import ModelUnavailable, RecordError

from penstock_inference.seen_rows import SeenRows
from penstock_inference.tensors import Matrix
from penstock_inference.triton import ServedModel

SIZES: Final = (1, 16, 256)
"""Rows of the calls; a full batch comes last. A runtime plans its memory anew for larger ones."""
WARM_TIMEOUT_S: Final = 5.0


class WarmedServer(Protocol):
    """The model server; `TritonServer` in service."""

    def infer(self, model: ServedModel, matrix: Matrix, timeout_s: float) -> Matrix:
        """Return the scores of a matrix."""


def warm_up(server: WarmedServer, model: ServedModel, seen: SeenRows) -> None:
    """Send a loaded version rows that its predecessor has answered.

    Where none have been seen, zeros are sent, and what becomes of them says nothing.

    Raises
    ------
    ModelUnavailable
        It fails on rows that were seen, or answers none of them with a finite score: the version
        that serves goes on.
    """
    is_real = seen.has(model.width)
    for rows in sorted({min(size, model.max_rows) for size in (*SIZES, model.max_rows)}):
        try:
            scores = server.infer(model, seen.sample(rows, model.width), WARM_TIMEOUT_S)
        except (RecordError, ModelUnavailable) as exc:
            if is_real:
                raise ModelUnavailable(f"{model.name} fails on rows that were seen: {exc}") from exc
            return
        if is_real and not np.isfinite(scores).all(axis=1).any():
            raise ModelUnavailable(f"{model.name} answers rows that were seen with no finite score")
