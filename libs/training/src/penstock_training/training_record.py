"""What a training leaves behind: its record for the tracking run, and the registered model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What is logged of one training.

    Parameters
    ----------
    params
        Settings of the trainer.
    metrics
        Measured values.
    dataset
        Manifest of the training set, with its sha256.
    model
        The exported model.
    artifacts
        Files of the run, by name: reference, plots.
    """

    params: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    dataset: Mapping[str, Any]
    model: onnx.ModelProto
    artifacts: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A version in the registry with the bytes of its artifact.

    Parameters
    ----------
    digest
        ``sha256:<hex>`` of ``onnx_bytes``.
    """

    name: str
    version: str
    run_id: str
    git_commit: str
    onnx_bytes: bytes

    @property
    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the artifact's bytes."""
        return digest_of(self.onnx_bytes)


def digest_of(content: bytes) -> str:
    """Return ``sha256:<hex>``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
