"""Batches of FeatureVectors and Predictions to columns of facts.

The project's own columnar decoder reads them: nothing else is fast enough for millions. So that
this proof does not rest on the decoder that wrote them, fastavro reads one record of every batch
too, and every record that the columnar decoder refuses.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.errors import SchemaError
from penstock_schemas.schema_files import projection

from penstock_ledger.decoding import RecordDecoder, Unreadable
from penstock_ledger.records import LedgerTopics, RecordColumns, Role

SCHEMA_FILES: Final[dict[Role, str]] = {
    "features": "feature_vector.avsc",
    "predictions": "prediction.avsc",
}
SHARED: Final = ("event_id", "origin", "features")
OF_PREDICTION: Final = (
    "predicted_at",
    "model_name",
    "model_version",
    "variant",
    "attempt",
    "outcome",
)
ANSWER: Final = ("scores", "decision", "threshold")
Fact = tuple[Any, ...]
"""origin partition, origin offset, event id, features, and for a prediction `OF_PREDICTION`, the
number of its scores (`NOT_FINITE` if one is no number), and its decision."""
WIDTH: Final = 4 + len(OF_PREDICTION) + 2
NOT_FINITE: Final = -1
CONTRADICTED: Final = 2
"""In place of a decision, 0 or 1, that its first score and threshold do not bear out."""
NO_FACT: Final[Fact] = (None,) * WIDTH
ANYTHING: Final = object()
"""Stands for a digest that is not compared: Python's floats do not keep the bits of every NaN."""
_FLOAT_BYTES: Final = 4


@dataclass(slots=True)
class Facts:
    """What the outputs of a batch say about their events.

    Parameters
    ----------
    columns
        `WIDTH` lists of one entry per record.
    unreadable
        (row, why) of those that say nothing; their facts are None.
    """

    columns: list[Sequence[Any]]
    unreadable: list[tuple[int, str]] = field(default_factory=list)


class FactReader:
    """Reads the facts of one Avro topic.

    Parameters
    ----------
    rows
        The judge of single records, with the registry.
    """

    def __init__(self, role: Role, topics: LedgerTopics, rows: RecordDecoder) -> None:
        self._events = topics.events
        self._is_prediction = role == "predictions"
        self._rows = rows
        fields = SHARED + OF_PREDICTION + ANSWER if self._is_prediction else SHARED
        self._decoder = ColumnarDecoder(projection(SCHEMA_FILES[role], fields), self._schema)

    def _schema(self, schema_id: int) -> str:
        try:
            return self._rows.schema_text(schema_id)
        except LookupError as exc:
            raise SchemaError(f"schema id {schema_id}: {exc}", schema_id=schema_id) from exc

    def facts(self, batch: RecordColumns) -> Facts:
        """Return the facts of a batch."""
        decoded = self._decoder.decode(batch.values)
        found = self._columns(decoded.columns)
        if len(decoded.rows) == len(batch):
            facts = Facts(found)
        else:
            whole = [NO_FACT] * len(batch)
            for row, fact in zip(decoded.rows.tolist(), zip(*found, strict=True), strict=True):
                whole[row] = fact
            facts = Facts([list(column) for column in zip(*whole, strict=True)])
            facts.unreadable += [(int(row), "no value") for row in decoded.tombstones]
            facts.unreadable += [(row, str(error)) for row, error in decoded.errors]
        self._check_origins(decoded.columns.column("origin"), decoded.rows, facts)
        self._compare(batch, decoded.rows, facts)
        return facts

    def _columns(self, columns: pa.RecordBatch) -> list[Sequence[Any]]:
        origin = columns.column("origin")
        found: list[Sequence[Any]] = [
            origin.field("partition").to_pylist(),
            origin.field("offset").to_pylist(),
            [hash(text) for text in columns.column("event_id").to_pylist()],
            _feature_digests(columns.column("features")),
        ]
        for name in OF_PREDICTION:
            if not self._is_prediction:
                found.append([None] * columns.num_rows)
            elif name == "predicted_at":
                found.append(columns.column(name).cast(pa.int64()).to_pylist())
            else:
                found.append(_texts(columns.column(name)))
        nothing = [None] * columns.num_rows
        return found + (_answers(columns) if self._is_prediction else [nothing, nothing])

    def _check_origins(self, origin: pa.StructArray, rows: Any, facts: Facts) -> None:
        """Take the facts from outputs that do not name an event of this pipeline."""
        topics = origin.field("topic")
        names = topics.dictionary_encode().dictionary.to_pylist()
        if not origin.null_count and names == [self._events]:
            return
        for row, place in zip(rows.tolist(), origin.to_pylist(), strict=True):
            if place is not None and place["topic"] == self._events:
                continue
            why = "names no origin" if place is None else f"origin in topic {place['topic']}"
            self._forget(row, why, facts)

    def _forget(self, row: int, why: str, facts: Facts) -> None:
        facts.columns = [list(column) for column in facts.columns]
        for column in facts.columns:
            column[row] = None  # type: ignore[index]
        facts.unreadable.append((row, why))

    def _compare(self, batch: RecordColumns, rows: Any, facts: Facts) -> None:
        """Read one record, and what was refused, with fastavro: both must say the same."""
        sample = [int(rows[len(rows) // 2])] if len(rows) else []
        for row in [*sample, *dict(facts.unreadable)]:
            fact = tuple(column[row] for column in facts.columns)
            other = self._judged(batch, row)
            if any(a != b and b is not ANYTHING for a, b in zip(fact, other, strict=True)):
                self._forget(row, "two decoders of Avro do not agree on it", facts)
        facts.unreadable = sorted(dict(facts.unreadable).items())

    def _judged(self, batch: RecordColumns, row: int) -> Fact:
        try:
            return self._fact(self._rows.value(batch.row(row)))
        except (Unreadable, KeyError, TypeError):
            return NO_FACT

    def _fact(self, value: dict[str, Any]) -> Fact:
        origin = value.get("origin")
        if origin is None or origin["topic"] != self._events:
            return NO_FACT
        more: list[Any] = [None] * (WIDTH - 4)
        if self._is_prediction:
            plain = [value[name] for name in OF_PREDICTION]
            more = [_ms(item) if isinstance(item, datetime) else item for item in plain]
            more += _answer(value["scores"], value["decision"], value["threshold"])
        return (
            origin["partition"],
            origin["offset"],
            hash(value["event_id"]),
            _digest_of(value["features"]),
            *more,
        )


def _answers(columns: pa.RecordBatch) -> list[Sequence[Any]]:
    """Return the number of scores and the decision of each prediction; see `_answer`."""
    scores = columns.column("scores")
    ends = scores.offsets.to_numpy()
    values = scores.values.to_numpy(zero_copy_only=False)
    widths = np.diff(ends)
    finite = np.concatenate(([0], np.cumsum(np.isfinite(values))))
    counts = np.where(finite[ends[1:]] - finite[ends[:-1]] == widths, widths, NOT_FINITE)
    decided = columns.column("decision").to_numpy(zero_copy_only=False).astype(np.int64)
    threshold = columns.column("threshold").to_numpy(zero_copy_only=False)
    first = np.append(values, np.float32(np.nan))[np.minimum(ends[:-1], len(values))]
    is_above = (widths > 0) & (first >= threshold)
    decisions = np.where(decided == is_above, decided, CONTRADICTED)
    return [counts.tolist(), decisions.tolist()]


def _answer(scores: list[float], decision: bool, threshold: float) -> list[int]:
    count = len(scores) if all(map(math.isfinite, scores)) else NOT_FINITE
    is_above = bool(scores) and scores[0] >= threshold
    return [count, int(decision) if decision == is_above else CONTRADICTED]


def _digest_of(features: list[float]) -> object:
    if any(map(math.isnan, features)):
        return ANYTHING
    return hash(struct.pack(f"<{len(features)}f", *features))


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _texts(column: pa.Array) -> list[str | None]:
    """Return texts of which most are equal: one object for each that differs."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    words = np.array(encoded.dictionary.to_pylist(), dtype=object)
    if encoded.indices.null_count or not len(words):
        texts: list[str | None] = column.to_pylist()
        return texts
    found: list[str | None] = words[encoded.indices.to_numpy()].tolist()
    return found


def _feature_digests(column: pa.ListArray) -> list[int]:
    """Return a digest of each feature list's bytes."""
    ends = column.offsets.to_numpy() * _FLOAT_BYTES
    raw = column.values.to_numpy(zero_copy_only=False).astype("<f4", copy=False).tobytes()
    return [hash(raw[a:b]) for a, b in itertools.pairwise(ends.tolist())]
