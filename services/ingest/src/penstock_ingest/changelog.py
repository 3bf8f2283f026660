"""Aggregates of a partition, rebuilt from the compacted changelog."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING
from penstock_features.aggregates import AggregateLayout, AggregateTable, unpack_into
from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

from penstock_ingest.metrics import IngestMetrics

logger = logging.getLogger(__name__)


class StateChangelog:
    """Restores the state of partitions from the changelog topic.

    Parameters
    ----------
    topic
        The changelog; its partitions are those of the events.
    layout
        Of the aggregates; state of another layout is left aside with a log line.
    """

    def __init__(
        self, kafka: KafkaSettings, topic: str, layout: AggregateLayout, metrics: IngestMetrics
    ) -> None:
        self._view = LogView(kafka)
        self.topic = topic
        self._layout = layout
        self._metrics = metrics

    def restore(self, partitions: Sequence[int], deadline_s: float) -> dict[int, AggregateTable]:
        """Return the committed state of partitions.

        Raises
        ------
        BrokerUnavailable
            If it cannot be read to its end within ``deadline_s`` seconds.
        """
        deadline = Deadline(deadline_s)
        ends = self._view.end_offsets([(self.topic, p) for p in partitions], deadline)
        latest: dict[int, dict[bytes, bytes]] = {p: {} for p in partitions}
        spans = {p: Span(OFFSET_BEGINNING, end) for p, end in ends.items() if end > 0}
        for messages in self._view.read(spans, deadline):
            for message in messages:
                table = latest[message.partition() or 0]
                key, value = message.key() or b"", message.value()
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        return {p: self._table(p, latest[p]) for p in partitions}

    def _table(self, partition: int, latest: Mapping[bytes, bytes]) -> AggregateTable:
        table = AggregateTable(self._layout)
        ignored = unpack_into(table, list(latest), list(latest.values()))
        self._metrics.restored.inc(len(table))
        if ignored:
            self._metrics.ignored.inc(ignored)
            logger.warning(
                "%s/%d: aggregates of %d entities were made with other definitions than "
                "pipeline.yaml has now; they start anew",
                self.topic,
                partition,
                ignored,
            )
        return table
