"""Events that break the contract on purpose, one kind per way a producer can break it.

Each spoilt event comes with the outcome the contract promises, so that a test can compare.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from penstock_pipelines.model import PipelineConfig

from penstock_simulator.foreign_producer import json_bytes

Expected = Literal["predicted", "skip", "decode", "schema", "rule", "oversize"]

EXPECTED: Final[Mapping[str, Expected]] = {
    "json": "predicted",
    "wrong_magic": "decode",
    "short": "decode",
    "empty": "decode",
    "truncated": "decode",
    "trailing": "decode",
    "invalid_json": "decode",
    "unknown_schema_id": "schema",
    "json_field_missing": "schema",
    "json_field_mistyped": "schema",
    "rule_broken": "rule",
    "not_a_number": "rule",
    "null_key": "rule",
    "oversize": "oversize",
    "tombstone": "skip",
}
"""Terminal outcome of each kind: a dead-letter class, a counted skip, or a prediction."""

UNKNOWN_SCHEMA_ID: Final = 2_000_000_000


@dataclass(frozen=True, slots=True)
class SpoiltEvent:
    """An event sent in an unusual form.

    Parameters
    ----------
    event_id
        Id of the event it was made from; the record itself need not carry it.
    kind
        One of `EXPECTED`.
    expected
        What must become of it.
    key, value
        The record as sent.
    """

    event_id: str
    kind: str
    expected: Expected
    key: bytes | None
    value: bytes | None


class Spoiler:
    """Spoils events of one pipeline.

    Parameters
    ----------
    config
        The pipeline: its rules say how a rule is broken.
    schema
        Arrow schema of the events.
    write
        Writer of a good event (see `wire.avro_writer`).
    """

    def __init__(
        self, config: PipelineConfig, schema: pa.Schema, write: Callable[[dict[str, Any]], bytes]
    ) -> None:
        self._event = config.event
        self._limit = config.limits.max_event_bytes
        self._write = write
        floating = {f.name for f in schema if pa.types.is_floating(f.type)}
        self._ranged = next(
            (r for r in config.rules if r.min is not None and r.field in floating), None
        )
        required = [f.from_field for f in config.features if f.missing == "reject"]
        self._numeric = next((f for f in required if f in floating), None)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that this pipeline's contract knows."""
        without = set()
        if "json" not in self._event.formats:
            without |= {k for k in EXPECTED if "json" in k}
        if self._ranged is None:
            without.add("rule_broken")
        if self._numeric is None:
            without.add("not_a_number")
        if not self._event.key_required:
            without.add("null_key")
        return tuple(k for k in EXPECTED if k not in without)

    def spoil(self, row: dict[str, Any], kind: str) -> SpoiltEvent:
        """Return ``row`` as a spoilt event of one of `kinds`."""
        key = None if kind == "null_key" else str(row[self._event.key]).encode()
        value = None if kind == "tombstone" else self._value(row, kind)
        return SpoiltEvent(str(row[self._event.id]), kind, EXPECTED[kind], key, value)

    def _value(self, row: dict[str, Any], kind: str) -> bytes:
        if "json" in kind:
            return self._json(row, kind)
        if kind in ("rule_broken", "not_a_number"):
            return self._write(self._broken(row, kind))
        good = self._write(row)
        spoilt: dict[str, Callable[[], bytes]] = {
            "null_key": lambda: good,
            "wrong_magic": lambda: b"\x07" + good[1:],
            "short": lambda: good[:3],
            "empty": lambda: b"",
            "truncated": lambda: good[: 5 + (len(good) - 5) // 2],
            "trailing": lambda: good + b"\x00\x01",
            "unknown_schema_id": lambda: struct.pack(">bI", 0, UNKNOWN_SCHEMA_ID) + good[5:],
            "oversize": lambda: self._write({**row, self._event.id: "x" * (self._limit + 1)}),
        }
        return spoilt[kind]()

    def _json(self, row: dict[str, Any], kind: str) -> bytes:
        if kind == "json_field_missing":
            return json_bytes({k: v for k, v in row.items() if k != self._event.time})
        if kind == "json_field_mistyped":
            return json_bytes({**row, self._event.time: "yesterday"})
        good = json_bytes(row)
        return good[:-2] if kind == "invalid_json" else good

    def _broken(self, row: dict[str, Any], kind: str) -> dict[str, Any]:
        if kind == "not_a_number" and self._numeric is not None:
            return {**row, self._numeric: float("nan")}
        if self._ranged is not None and self._ranged.min is not None:
            return {**row, self._ranged.field: self._ranged.min - 1}
        return row


def draw_kinds(
    rng: np.random.Generator, n: int, share: float, kinds: Sequence[str]
) -> dict[int, str]:
    """Choose which of ``n`` events are spoilt, and how.

    Every kind comes in turn from a random start, so that each appears as soon as there are enough.

    Returns
    -------
    Kind by row.
    """
    rows: npt.NDArray[np.int64] = np.flatnonzero(rng.random(n) < share)
    start = int(rng.integers(len(kinds)))
    return {int(r): kinds[(start + i) % len(kinds)] for i, r in enumerate(rows)}
