"""What the ledger reads, as plain values, and the names of the contract it reads them by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

Role = Literal["events", "features", "predictions", "events_dlq", "features_dlq"]
ROLES: Final[tuple[Role, ...]] = (
    "events",
    "features",
    "predictions",
    "events_dlq",
    "features_dlq",
)
View = Literal["committed", "uncommitted", "live"]
"""committed and uncommitted are the two isolation levels; live is what a read_committed reader
saw while the faults happened."""

Service = Literal["ingest", "inference"]
REPLAY_OF: Final = "penstock.replay.of"
"""Header of a record of the events topic that is a copy: ``topic/partition/offset`` of the one it
was copied from."""
DLQ_ATTEMPT: Final = "dlq.attempt"

DEAD_LETTER_CLASSES: Final = ("decode", "schema", "rule", "shape", "model", "oversize", "poison")
DEAD_LETTER_HEADERS: Final = (
    "__streams.errors.exception",
    "__streams.errors.message",
    "__streams.errors.topic",
    "__streams.errors.partition",
    "__streams.errors.offset",
    "dlq.service",
    "dlq.stage",
    "dlq.class",
    "dlq.attempt",
    "dlq.first_failed_at",
    "dlq.schema_id",
    "dlq.model",
    "dlq.origin",
)
"""As the contract lists them; written out here so that a slip in the product's own list shows."""

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record as a client delivers it.

    Parameters
    ----------
    timestamp_ms
        Record timestamp, milliseconds since the epoch; -1 where the record has none.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers = ()


@dataclass(slots=True)
class RecordColumns:
    """A batch of records as parallel lists: what a million records are read as.

    Parameters
    ----------
    headers
        None where the client cannot read a record's headers (a name that is not UTF-8).
    """

    partitions: list[int]
    offsets: list[int]
    keys: list[bytes | None]
    values: list[bytes | None]
    timestamps_ms: list[int]
    headers: list[Headers | None]

    @classmethod
    def of(cls, records: Iterable[RawRecord]) -> Self:
        """Return records as columns."""
        kept = list(records)
        return cls(
            [r.partition for r in kept],
            [r.offset for r in kept],
            [r.key for r in kept],
            [r.value for r in kept],
            [r.timestamp_ms for r in kept],
            [r.headers for r in kept],
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def row(self, index: int) -> RawRecord:
        """Return one record."""
        return RawRecord(
            self.partitions[index],
            self.offsets[index],
            self.keys[index],
            self.values[index],
            self.timestamps_ms[index],
            self.headers[index] or (),
        )

    def rows(self) -> list[RawRecord]:
        """Return every record."""
        return [self.row(index) for index in range(len(self))]


@dataclass(frozen=True, slots=True)
class Counter:
    """A service's own count since the start of the window, for I14.

    Parameters
    ----------
    outcome
        consumed, features, predicted (all predictions, those that expired too), expired, skipped,
        dead:<class>, or error.
    """

    service: Service
    outcome: str
    value: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that the caller has made or seen, for I9.

    Parameters
    ----------
    ended_ms
        When it was over, milliseconds since the epoch.
    within_s
        Time for every partition that has work to progress again, seconds.
    """

    name: str
    ended_ms: int
    within_s: float


@dataclass(frozen=True, slots=True)
class LedgerTopics:
    """Topic names of one pipeline, by role, and its consumer groups.

    Parameters
    ----------
    models
        Topic of the routing states; without it provenance is not judged.

    Examples
    --------
    >>> LedgerTopics.of("fraud").name("events_dlq")
    'fraud.events.v1.dlq'
    """

    pipeline: str
    events: str
    features: str
    predictions: str
    models: str = ""

    @classmethod
    def of(cls, pipeline: str) -> LedgerTopics:
        """Return the names by convention."""
        return cls(
            pipeline,
            f"{pipeline}.events.v1",
            f"{pipeline}.features.v1",
            f"{pipeline}.predictions.v1",
            f"{pipeline}.models.v1",
        )

    def name(self, role: Role) -> str:
        """Return the topic of ``role``."""
        match role:
            case "events":
                return self.events
            case "features":
                return self.features
            case "predictions":
                return self.predictions
            case "events_dlq":
                return f"{self.events}.dlq"
            case "features_dlq":
                return f"{self.features}.dlq"

    def group(self, service: Service) -> str:
        """Return the consumer group of a service."""
        return f"penstock-{service}-{self.pipeline}"

    def input_role(self, service: Service) -> Role:
        """Return the role of the topic that a service consumes."""
        return "events" if service == "ingest" else "features"


def digest(data: bytes | None) -> int | None:
    """Return 64 bits that stand for some bytes within this process; None for None.

    Null and empty differ. It is the interpreter's own hash: a million records have it computed
    and cached already, and no store outlives its process.
    """
    return None if data is None else hash(data)


def original_headers(headers: Headers | None) -> str | None:
    """Return the headers that a dead letter must keep, in order, as comparable text.

    Empty where there are none, None where they are not readable.
    """
    if headers is None:
        return None
    kept = [
        [name, None if value is None else value.hex()]
        for name, value in headers
        if name not in DEAD_LETTER_HEADERS
    ]
    return json.dumps(kept) if kept else ""
