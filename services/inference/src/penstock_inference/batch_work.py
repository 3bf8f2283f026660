"""A batch of feature vectors between submit and result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from penstock_schemas.errors import RecordError
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

from penstock_inference.answers import Answers
from penstock_inference.expiry import Mask, with_expired
from penstock_inference.pipeline import AnsweredBy, Vectors
from penstock_inference.routing import RouteTable, Which
from penstock_inference.tensors import Rows


@dataclass(slots=True)
class BatchWork:
    """A batch between submit and result.

    Parameters
    ----------
    table
        Who was to answer; the champion's refusal makes a dead letter.
    vectors
        The rows that are still good.
    rows
        Row in the batch of each, ascending.
    which
        Per row its key's route in the table; None where all are the champion's.
    expired
        Which rows are too old for an answer; None where none is.
    """

    batch: MessageBatch
    table: RouteTable
    vectors: Vectors
    rows: Rows
    which: Which | None = None
    expired: Mask | None = None
    dead: list[tuple[int, RecordError]] = field(default_factory=list)
    origins: dict[int, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def drop(self, errors: Sequence[tuple[int, RecordError]]) -> None:
        """Note rows, counted within the still good ones, as dead letters."""
        for at, error in errors:
            row = int(self.rows[at])
            place = self.vectors.origin[at].as_py()
            error.model = self.table.champion.model.name
            self.dead.append((row, error))
            self.origins[row] = f"{place['topic']}/{place['partition']}/{place['offset']}"

    def keep(self, kept: Rows) -> None:
        """Keep some of the rows, counted within the still good ones."""
        self.vectors, self.rows = self.vectors.keep(kept), self.rows[kept]
        self.which = None if self.which is None else self.which[kept]
        self.expired = None if self.expired is None else self.expired[kept]

    def all_rows(self, answers: Answers | None) -> Answers:
        """Return the answers with the rows that have expired among them.

        Parameters
        ----------
        answers
            Of the others; None where there are no others.
        """
        if self.expired is None and answers is not None:
            return answers
        expired = np.ones(len(self.rows), dtype=np.bool_) if self.expired is None else self.expired
        which = np.zeros(len(self.rows), dtype=np.int8) if self.which is None else self.which
        return with_expired(answers, expired, which, AnsweredBy(self.table.routes))

    def handled(self, outputs: list[OutputColumns]) -> HandledBatch:
        """Return the outcome of every row."""
        self.dead.sort(key=lambda item: item[0])
        return HandledBatch(outputs, self.dead, self.skipped, len(self.rows), self.origins)
