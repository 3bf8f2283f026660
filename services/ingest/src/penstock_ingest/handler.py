"""Handler of the loop: keyed state per partition, in step with the transaction.

State changes only when the loop asks for a batch's result, in order; what `changelog` returns is
therefore the state after exactly the records of the open transaction. An aborted transaction drops
the state and reads the committed one back, whatever became of the commit.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_features.aggregates import AggregateTable, pack_rows
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

from penstock_ingest.changelog import StateChangelog
from penstock_ingest.metrics import IngestMetrics
from penstock_ingest.pipeline import IngestPipeline, Prepared
from penstock_ingest.writeback import WriteBackThread


class PendingIngest:
    """A prepared batch; its result is computed when the loop asks for it."""

    def __init__(self, handler: IngestHandler, prepared: Prepared) -> None:
        self._handler = handler
        self._prepared = prepared
        self._handled: HandledBatch | None = None

    def done(self, within_s: float = 0.0) -> bool:
        """Return True: there is nothing to wait for."""
        return True

    def result(self, timeout_s: float) -> HandledBatch:
        """Add the events to the state, once, and return the outcome."""
        if self._handled is None:
            self._handled = self._handler.finish(self._prepared)
        return self._handled


class IngestHandler:
    """Handler of one pipeline's events.

    Parameters
    ----------
    pipeline
        Turns messages into outputs.
    changelog
        None for a pipeline without aggregates: it has no state.
    write_back
        None where nothing is written back.
    """

    def __init__(
        self,
        pipeline: IngestPipeline,
        changelog: StateChangelog | None,
        write_back: WriteBackThread | None,
        metrics: IngestMetrics,
    ) -> None:
        self._pipeline = pipeline
        self._changelog = changelog
        self._write_back = write_back
        self._metrics = metrics
        self._tables: dict[int, AggregateTable] = {}
        self._uncommitted: list[tuple[list[bytes], list[bytes]]] = []

    def submit(self, batch: MessageBatch) -> PendingIngest:
        """Do all of the work that changes no state.

        Raises
        ------
        RetryableError
            The registry or the online store is away; no state has changed.
        """
        return PendingIngest(self, self._pipeline.prepare(batch))

    def finish(self, prepared: Prepared) -> HandledBatch:
        """Add the batch's events to the state; called by the pending batch."""
        return self._pipeline.finish(prepared, self._tables)

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Restore the committed state of partitions.

        Raises
        ------
        BrokerUnavailable
            If that takes longer than ``deadline_s``.
        """
        if self._changelog is not None and partitions:
            self._tables.update(self._changelog.restore(partitions, deadline_s))
            self._count()

    def revoked(self, partitions: Sequence[int]) -> None:
        """Drop the state of partitions."""
        for partition in partitions:
            self._tables.pop(partition, None)
        self._count()

    def changelog(self) -> Sequence[OutputColumns]:
        """Return the entities changed since the last call, one record each."""
        if self._changelog is None:
            return ()
        outputs: list[OutputColumns] = []
        for partition, table in self._tables.items():
            rows = table.changed_rows()
            if len(rows):
                keys, payloads = pack_rows(table, rows)
                outputs.append(
                    OutputColumns(self._changelog.topic, keys, payloads, [partition] * len(keys))
                )
                self._uncommitted.append((keys, payloads))
        self._count()
        return outputs

    def committed(self) -> None:
        """Hand what is committed to the write-back."""
        if self._write_back is not None:
            for keys, payloads in self._uncommitted:
                self._write_back.offer(keys, payloads)
        self._uncommitted.clear()

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Read the committed state again: it is right whether the commit went through or not."""
        self._uncommitted.clear()
        self.revoked(partitions)
        self.assigned(partitions, deadline_s)

    def _count(self) -> None:
        self._metrics.entities.set(sum(len(table) for table in self._tables.values()))
