"""Frozen records of the low-rate topics. Hot topics are read and written as columns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


class _Record:
    """A record of a topic: to the Avro encoder and back, timestamps as int milliseconds."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values for the Avro encoder."""
        return asdict(self)  # type: ignore[call-overload,no-any-return] # each is a dataclass

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Build the record from what the Avro decoder returns."""
        return cls(**value)


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
class RoutingState(_Record):
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

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Build the record from what the Avro decoder returns."""
        versions = tuple(ModelVersion(**v) for v in value["versions"])
        return cls(**{**value, "versions": versions})


@dataclass(frozen=True, slots=True)
class DriftWindow:
    """Where the evidence of a drift event lies; fields as in drift_event.avsc.

    Parameters
    ----------
    first_offset, last_offset
        Both inclusive.
    first_time, last_time
        Event times, milliseconds since the epoch, UTC.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    rows: int
    first_time: int
    last_time: int


@dataclass(frozen=True, slots=True)
class DriftEvent(_Record):
    """A change found by one detector; fields as in drift_event.avsc.

    Parameters
    ----------
    detected_at
        Milliseconds since the epoch, UTC, by the stream's own clock.
    kind
        data, prediction or concept.
    severity
        suspected or detected.
    """

    event_id: str
    episode_id: str
    pipeline: str
    detected_at: int
    detector: str
    kind: str
    subject: str
    statistic: float
    threshold: float
    baseline: float
    model_name: str
    model_version: str
    window: DriftWindow
    reference_id: str
    severity: str

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Build the record from what the Avro decoder returns."""
        return cls(**{**value, "window": DriftWindow(**value["window"])})


@dataclass(frozen=True, slots=True)
class RetrainEvent(_Record):
    """One step of a retraining; fields as in retrain_event.avsc.

    Parameters
    ----------
    state
        requested, accepted, suppressed, started, finished, failed, cancelled or resubmitted.
    at, data_since
        Milliseconds since the epoch, UTC.
    """

    event_id: str
    request_id: str
    pipeline: str
    state: str
    at: int
    source: str
    actor: str = ""
    cause_ids: tuple[str, ...] = ()
    reason: str = ""
    data_since: int | None = None
    job_id: str = ""
    run_id: str = ""
    model_version: str = ""
    verdict: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """Build the record from what the Avro decoder returns."""
        return cls(**{**value, "cause_ids": tuple(value["cause_ids"])})

    @classmethod
    def request(
        cls,
        event_id: str,
        pipeline: str,
        at: int,
        source: str,
        **facts: Any,
    ) -> RetrainEvent:
        """Return a request; its own id is the id of all that follows from it."""
        return cls(event_id, event_id, pipeline, "requested", at, source, **facts)

    def followed_by(self, state: str, at: int, **facts: Any) -> RetrainEvent:
        """Return the next step of the same request.

        Examples
        --------
        >>> asked = RetrainEvent.request("r1", "fraud", 0, "cli")
        >>> asked.followed_by("accepted", 5).event_id
        'r1.accepted'
        """
        return RetrainEvent(
            f"{self.request_id}.{state}",
            self.request_id,
            self.pipeline,
            state,
            at,
            self.source,
            **facts,
        )


@dataclass(frozen=True, slots=True)
class DriftState(_Record):
    """Snapshot of the drift service's state; fields as in drift_state.avsc."""

    layout: str
    offset: int
    join_from: int
    detectors: bytes
    errors: bytes
    error_times: bytes
    expected: bytes = b""


@dataclass(frozen=True, slots=True)
class AuditEvent(_Record):
    """One step of an operation on a running system; fields as in audit_event.avsc.

    Parameters
    ----------
    at
        Milliseconds since the epoch, UTC.
    phase
        begin, progress or end.
    ranges
        Offsets such as ``3-7,9``, by ``topic/partition@topic id``.
    """

    event_id: str
    operation_id: str
    at: int
    actor: str
    action: str
    subject: str
    phase: str
    outcome: str = ""
    reason: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
