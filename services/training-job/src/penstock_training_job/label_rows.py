"""Reads predictions and labels as they come, and makes training sets that can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
from penstock_monitoring.label_join import join_labels
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import Resolve
from penstock_schemas.errors import ConfigError
from penstock_streaming.log_view import Offsets, Partition
from penstock_streaming.settings import KafkaSettings
from penstock_training.training_set import TrainingSet

from penstock_training_job.columns import LabelColumns, PredictionColumns, Wanted
from penstock_training_job.rows import Kept, features_of, ids_digest, labels_of
from penstock_training_job.topic_log import TopicLog

READ_TIMEOUT_S: Final = 300.0
"""Longest time to catch up with the topics, seconds."""
_KEPT_PER_LABEL: Final = 10
"""Rows kept of each topic per row of the largest training set: what lies further back is not
looked at."""
TRAINING_VARIANTS: Final = ("champion", "canary")


class LabelRows:
    """The joined rows of a pipeline's two topics, from some offsets on. Close it.

    Parameters
    ----------
    resolve
        Returns a writer's schema by its id.
    starts
        Where to begin; the newest rows that may be of use where None.
    limit
        Most rows kept of each topic; None for all.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        resolve: Resolve,
        config: PipelineConfig,
        wanted: Wanted,
        starts: Offsets | None = None,
        *,
        limit: int | None = None,
    ) -> None:
        names = config.topic_names
        self._predictions, self._interactions = names.predictions, names.interactions
        self._log = TopicLog(kafka, [self._predictions, self._interactions])
        self._columns = PredictionColumns(resolve, wanted), LabelColumns(resolve)
        most = limit or 2**62
        self._kept = Kept(most), Kept(most)
        try:
            self._starts = dict(starts) if starts is not None else self._tail(most)
            self._log.start(self._starts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the broker."""
        self._log.close()

    def _tail(self, rows: int) -> dict[Partition, int]:
        """Return where each partition's share of the newest rows begins."""
        first, end = self._log.watermarks()
        of_topic = {topic: sum(t == topic for t, _ in end) for topic, _ in end}
        return {p: max(first[p], end[p] - rows // of_topic[p[0]]) for p in end}

    def advance(self, ends: Offsets | None = None) -> None:
        """Read what is committed now, or what lies before ``ends`` and nothing else.

        Raises
        ------
        BrokerUnavailable, RegistryUnavailable
            If one of them does not answer.
        ConfigError
            If records that were asked for are gone.
        """
        upto = self._log.watermarks()[1] if ends is None else ends
        for chunk in self._log.read(upto, READ_TIMEOUT_S):
            is_label = chunk.topic == self._interactions
            table = self._columns[is_label].table(chunk)
            if ends is not None:
                end = ends[chunk.topic, chunk.partition]
                table = table.filter(pa.compute.less(table["offset"], end))
            self._kept[is_label].add(chunk, table)

    def joined(self, at_least: int = 1) -> pa.Table | None:
        """Return the labelled rows read so far, by time; None if there cannot be so many."""
        predictions, labels = self._kept
        if min(predictions.rows, labels.rows) < at_least:
            return None
        found, known = predictions.table(), labels.table()
        if found is None or known is None:
            return None
        return join_labels(found, known, prediction="first", label="first")

    def ranges(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return first and last offset read, both inclusive, by topic and partition."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        dropped = self._kept[0].first | self._kept[1].first
        for (topic, partition), after in sorted(self._log.positions.items()):
            first = dropped.get((topic, partition), self._starts.get((topic, partition), 0))
            found.setdefault(topic, {})[str(partition)] = {"first": first, "last": after - 1}
        return found


def kept_rows(config: PipelineConfig) -> int:
    """Return how many rows of each topic are kept for a training set."""
    return _KEPT_PER_LABEL * config.retrain.max_labels


def make_training_set(
    rows: pa.Table, config: PipelineConfig, source: Mapping[str, Any]
) -> TrainingSet:
    """Return the newest rows as a training set.

    Parameters
    ----------
    rows
        As `LabelRows.joined` returns them.
    source
        Where they come from: ``ranges``, ``data_since``, ``max_labels``.
    """
    newest = rows.slice(max(0, rows.num_rows - int(source["max_labels"])))
    facts = {**source, "labelled": rows.num_rows, "ids_sha256": ids_digest(newest)}
    matrix = features_of(newest, len(config.feature_names))
    return TrainingSet(matrix, labels_of(newest), config.feature_names, facts)


def rebuild(
    manifest: Mapping[str, Any], kafka: KafkaSettings, resolve: Resolve, config: PipelineConfig
) -> TrainingSet:
    """Make a training set again from its manifest.

    Raises
    ------
    ConfigError
        If the topics no longer hold what it was made of.
    BrokerUnavailable, RegistryUnavailable
        If one of them does not answer.
    """
    source = manifest["source"]
    starts, ends = _bounds(source["ranges"])
    wanted = training_rows(config, source["data_since"])
    reader = LabelRows(kafka, resolve, config, wanted, starts)
    try:
        reader.advance(ends)
        rows = reader.joined()
    finally:
        reader.close()
    kept = {k: v for k, v in source.items() if k not in ("labelled", "ids_sha256")}
    made = None if rows is None else make_training_set(rows, config, kept)
    if made is None or made.manifest() != dict(manifest):
        got = "no rows" if made is None else made.sha256
        raise ConfigError(
            f"training set: expected sha256 {manifest['sha256']}, got {got}: "
            "the topics no longer hold what it was made of"
        )
    return made


def after(manifest: Mapping[str, Any]) -> dict[Partition, int]:
    """Return the offsets behind what a training set was made of."""
    return _bounds(manifest["source"]["ranges"])[1]


def training_rows(config: PipelineConfig, since_ms: int | None) -> Wanted:
    """Return which predictions a model is trained on."""
    return Wanted(len(config.feature_names), TRAINING_VARIANTS, since_ms)


def _bounds(ranges: Mapping[str, Any]) -> tuple[dict[Partition, int], dict[Partition, int]]:
    starts: dict[Partition, int] = {}
    ends: dict[Partition, int] = {}
    for topic, partitions in ranges.items():
        for number, span in partitions.items():
            starts[topic, int(number)] = span["first"]
            ends[topic, int(number)] = span["last"] + 1
    return starts, ends
