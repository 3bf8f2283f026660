"""What the ledger reads, as plain values, and the names of the contract it reads them by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal

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


@dataclass(frozen=True, slots=True)
class Counter:
    """A service's own count since the start of the window, for I14.

    Parameters
    ----------
    outcome
        consumed, features, predicted, skipped, dead:<class>, or error.
    """

    service: Service
    outcome: str
    value: int


@dataclass(frozen=True, slots=True)
class LedgerTopics:
    """Topic names of one pipeline, by role, and its consumer groups.

    Examples
    --------
    >>> LedgerTopics.of("fraud").name("events_dlq")
    'fraud.events.v1.dlq'
    """

    pipeline: str
    events: str
    features: str
    predictions: str

    @classmethod
    def of(cls, pipeline: str) -> LedgerTopics:
        """Return the names by convention."""
        return cls(
            pipeline,
            f"{pipeline}.events.v1",
            f"{pipeline}.features.v1",
            f"{pipeline}.predictions.v1",
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


def digest(data: bytes | None) -> bytes | None:
    """Return a 16-byte digest; None stays None, so that null and empty differ."""
    return None if data is None else blake2b(data, digest_size=16).digest()


def original_headers(headers: Headers) -> str:
    """Return the headers that a dead letter must keep, in order, as comparable text."""
    kept = [
        [name, None if value is None else value.hex()]
        for name, value in headers
        if name not in DEAD_LETTER_HEADERS
    ]
    return json.dumps(kept)
