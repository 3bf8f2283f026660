"""A batch of feature vectors between submit and result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock_schemas.errors import RecordError
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

from penstock_inference.pipeline import Vectors
from penstock_inference.routing import Route
from penstock_inference.tensors import Rows


@dataclass(slots=True)
class BatchWork:
    """A batch between submit and result.

    Parameters
    ----------
    champion
        Whose refusal makes a dead letter.
    vectors
        The rows that are still good.
    rows
        Row in the batch of each, ascending.
    """

    batch: MessageBatch
    champion: Route
    vectors: Vectors
    rows: Rows
    dead: list[tuple[int, RecordError]] = field(default_factory=list)
    origins: dict[int, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def drop(self, errors: Sequence[tuple[int, RecordError]]) -> None:
        """Note rows, counted within the still good ones, as dead letters."""
        for at, error in errors:
            row = int(self.rows[at])
            place = self.vectors.origin[at].as_py()
            error.model = self.champion.model.name
            self.dead.append((row, error))
            self.origins[row] = f"{place['topic']}/{place['partition']}/{place['offset']}"

    def handled(self, outputs: list[OutputColumns]) -> HandledBatch:
        """Return the outcome of every row."""
        self.dead.sort(key=lambda item: item[0])
        return HandledBatch(outputs, self.dead, self.skipped, len(self.rows), self.origins)
