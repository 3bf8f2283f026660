"""What is processed and what is committed, per partition: the offset arithmetic of the loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from penstock_streaming.handler import MessageBatch


class Progress:
    """Ends of the processed and of the committed records of each partition.

    An end is the offset of the next record to read.

    Attributes
    ----------
    open_ends
        Ends of the records in the open transaction.
    committed
        Ends this worker committed since it was assigned the partition.
    """

    def __init__(self) -> None:
        self.open_ends: dict[int, int] = {}
        self.committed: dict[int, int] = {}

    def add(self, batch: MessageBatch) -> None:
        """Count a finished batch into the open transaction."""
        for partition in np.unique(batch.partitions).tolist():
            last = batch.offsets[batch.partitions == partition].max()
            self.open_ends[partition] = max(int(last) + 1, self.open_ends.get(partition, 0))

    def ends(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return the offsets to commit.

        Parameters
        ----------
        positions
            The consumer's positions, to step over control records; only to be given when all
            it has returned is in the open transaction, else empty.
        """
        return {p: max(end, positions.get(p, end)) for p, end in self.open_ends.items()}

    def behind(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return the positions that are beyond what is committed, for an idle worker."""
        return {p: positions[p] for p, end in self.committed.items() if positions.get(p, end) > end}

    def commit(self, ends: Mapping[int, int]) -> None:
        """Close the transaction: its ends are committed."""
        self.committed.update(ends)
        self.open_ends.clear()

    def roll_back(self) -> None:
        """Drop the open transaction.

        The consumer's positions mean nothing until each partition has been read and committed
        again, so what is known to be committed is dropped too.
        """
        self.open_ends.clear()
        self.committed.clear()

    def forget(self, partitions: Iterable[int]) -> None:
        """Drop partitions that are no longer ours."""
        for partition in partitions:
            self.open_ends.pop(partition, None)
            self.committed.pop(partition, None)
