"""What a service gives to the loop: a handler of column batches.

The loop (processor.py) owns consumer, producer and transaction; a handler owns the meaning. Every
row of a batch ends in exactly one of: an output, a dead letter, a counted skip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from penstock_schemas.errors import RecordError

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(frozen=True, slots=True)
class MessageBatch:
    """What one poll returned, in arrival order; a row is one message of one topic.

    Parameters
    ----------
    topic
        The input topic.
    messages
        The client's own objects, for headers and the dead letter.
    values, keys
        Raw bytes per row; a None value is a tombstone.
    partitions
        Shape (n,), int32.
    offsets
        Shape (n,), int64.
    """

    topic: str
    messages: Sequence[Message]
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None]
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class OutputColumns:
    """Records to produce to one topic; four columns of equal length.

    Parameters
    ----------
    partitions
        Target partition per record: that of the source record.
    rows
        Row in the batch of each record. Without it, a record that is too large to produce cannot
        become the dead letter of its row and the loop stops.
    """

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    partitions: Sequence[int] | npt.NDArray[np.integer[Any]]
    rows: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None


@dataclass(slots=True)
class HandledBatch:
    """The terminal outcome of every row of a batch.

    Parameters
    ----------
    outputs
        Records to produce.
    dead_letters
        (row in the batch, why).
    skipped
        Rows that leave nothing behind, by reason, such as tombstone.
    terminal
        Number of output records that are a row's terminal outcome; with the dead letters and the
        skips it must equal the number of rows, and the loop checks that.
    origins
        ``topic/partition/offset`` in the events topic of a dead-letter row, where that is not the
        record itself.
    """

    outputs: list[OutputColumns]
    dead_letters: list[tuple[int, RecordError]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    terminal: int = 0
    origins: dict[int, str] = field(default_factory=dict)


class PendingBatch(Protocol):
    """A batch on its way. Several may be in flight; the loop finishes them in order."""

    def done(self, within_s: float = 0.0) -> bool:
        """Return whether `result` would not wait, after ``within_s`` at most."""

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome.

        Raises
        ------
        RetryableError
            A dependency is away: the loop pauses and submits the same batch again.
        FatalError
            The loop stops without committing.
        """


@dataclass(frozen=True, slots=True)
class Completed:
    """A pending batch that is already there, for handlers without asynchronous work."""

    handled: HandledBatch

    def done(self, within_s: float = 0.0) -> bool:
        """Return True."""
        return True

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome at once."""
        return self.handled


class Handler(Protocol):
    """A service's work on one input topic.

    All methods are called from the loop's one thread. `submit` may raise what
    `PendingBatch.result` may raise; if it raises, it has changed no state.
    """

    def submit(self, batch: MessageBatch) -> PendingBatch:
        """Start the work on a batch and return at once."""

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Take over partitions: restore their committed state before any record arrives."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Give up partitions: drop their state."""

    def changelog(self) -> Sequence[OutputColumns]:
        """Return the state changes since the last call, to be produced before a commit."""

    def committed(self) -> None:
        """Note that everything up to the last `changelog` call is committed."""

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Go back to the committed state of ``partitions``: the transaction was aborted."""


class StatelessHandler:
    """Base for handlers that keep no state between batches."""

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Do nothing: there is no state to restore."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Do nothing: there is no state to drop."""

    def changelog(self) -> Sequence[OutputColumns]:
        """Return no changes."""
        return ()

    def committed(self) -> None:
        """Do nothing."""

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Do nothing: re-execution is harmless."""
