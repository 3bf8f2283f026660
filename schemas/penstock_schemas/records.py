"""Frozen records of the low-rate topics. Hot topics are columns, never these."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version that the routers must know; fields as in routing_state.avsc."""

    model_name: str
    version: str
    served_as: str
    alias: str
    weight: int
    digest: str
    run_id: str
    state: str
    signature: str = ""
    git_commit: str = ""


@dataclass(frozen=True, slots=True)
class RoutingState:
    """What the routers of one pipeline serve; fields as in routing_state.avsc.

    Parameters
    ----------
    updated_at
        Milliseconds since the epoch, UTC.
    """

    pipeline: str
    revision: int
    updated_at: int
    updated_by: str
    versions: tuple[ModelVersion, ...]

    @property
    def champion(self) -> ModelVersion | None:
        """The version with alias champion, if any."""
        return next((v for v in self.versions if v.alias == "champion"), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values for the Avro encoder."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RoutingState:
        """Build the record from what the Avro decoder returns (timestamps as int ms)."""
        versions = tuple(ModelVersion(**v) for v in value["versions"])
        return cls(**{**value, "versions": versions})
