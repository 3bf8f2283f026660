"""Labelled rows of a pipeline, and training sets that can be made again from their manifest.

Predictions and labels are decoded to columns, each row with its partition and offset, and joined by
event: of several predictions the first in its partition counts, of several labels the one known
first. So the same ranges of offsets give the same rows, whichever was read first.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message
from penstock_monitoring.label_join import join_labels
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder, Resolve
from penstock_schemas.errors import ConfigError
from penstock_schemas.schema_files import projection
from penstock_streaming.log_view import LogView, Offsets, Partition, Span
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline
from penstock_training.trainers import Matrix, Vector
from penstock_training.training_set import TrainingSet

READ_TIMEOUT_S: Final = 300.0
"""Longest time to catch up with the topics, seconds."""
_KEPT_PER_LABEL: Final = 10
"""Rows kept of each topic per row of the largest training set: what lies further back is not
looked at."""
TRAINING_VARIANTS: Final = ("champion", "canary")
_PREDICTION: Final = projection(
    "prediction.avsc",
    ("event_id", "event_time", "model_version", "variant", "scores", "features", "outcome"),
)
_INTERACTION: Final = projection("interaction.avsc", ("event_id", "label", "occurred_at"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition, in order.

    Parameters
    ----------
    offsets
        Shape (n,), int64.
    values
        n raw values; None is a tombstone.
    """

    topic: str
    partition: int
    offsets: npt.NDArray[np.int64]
    values: list[bytes | None]


class TopicLog:
    """Reads topics piece by piece and remembers how far it has come.

    Parameters
    ----------
    topics
        Their names.
    """

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        self._topics = topics
        self._next: dict[Partition, int] = {}
        # Records that are gone are never skipped in silence.
        self._view = LogView(kafka, gap="error")

    def watermarks(self) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return each partition's first offset and its end, open transactions included.

        A transaction counts as open for some milliseconds after its commit has returned, until
        the broker has written its marker; a read up to this end waits for that.

        Raises
        ------
        BrokerUnavailable
            If no broker answers in time.
        ConfigError
            If a topic is not there.
        """
        partitions = self._view.partitions(*self._topics)
        first = self._view.begin_offsets(partitions)
        return first, self._view.end_offsets(partitions)

    @property
    def positions(self) -> dict[Partition, int]:
        """Offset of the next record of each partition."""
        return dict(self._next)

    def start(self, starts: Offsets) -> None:
        """Read from these offsets on."""
        self._next = dict(starts)

    def read(self, ends: Offsets, timeout_s: float) -> Iterator[Chunk]:
        """Yield what lies before these offsets and has not been read, partition by partition.

        Partitions that were added since the start are read from their beginning.

        Raises
        ------
        BrokerUnavailable
            If the ends are not reached in time.
        ConfigError
            If records that were asked for are gone.
        """
        spans = {p: Span(self._next.get(p, 0), end) for p, end in ends.items()}
        for messages in self._view.read(spans, Deadline(timeout_s)):
            for (topic, partition), records in groupby(sorted(messages, key=_place), _place):
                group = list(records)
                offsets = np.fromiter((m.offset() or 0 for m in group), np.int64, len(group))
                self._next[topic, partition] = int(offsets[-1]) + 1
                yield Chunk(topic, partition, offsets, [m.value() for m in group])
        # Beyond the last record there may be control records, which no client sees.
        self._next.update({p: max(span.first, span.end) for p, span in spans.items()})


def _place(message: Message) -> Partition:
    return message.topic() or "", message.partition() or 0


@dataclass(frozen=True, slots=True)
class PredictionFilter:
    """Which predictions are of interest.

    Parameters
    ----------
    width
        Number of features.
    variants
        Variants, such as champion.
    since_ms
        Earliest event time, milliseconds; None for any.
    model_version
        The one version; None for any.
    """

    width: int
    variants: tuple[str, ...]
    since_ms: int | None = None
    model_version: str | None = None


class PredictionColumns:
    """Decodes predictions to the columns partition, offset, event_id, event_time, score, features.

    Parameters
    ----------
    resolve
        Returns a writer's schema by its id.
    """

    def __init__(self, resolve: Resolve, wanted: PredictionFilter) -> None:
        self._decoder = ColumnarDecoder(_PREDICTION, resolve)
        self._wanted = wanted

    def table(self, chunk: Chunk) -> pa.Table:
        """Return the predictions of a chunk that are wanted, features as float32 lists."""
        found = _located(self._decoder, chunk)
        wanted = self._wanted
        keep = pc.equal(found["outcome"], "predicted")
        variants = pa.array(wanted.variants)
        keep = pc.and_(keep, pc.is_in(found["variant"], value_set=variants))
        keep = pc.and_(keep, pc.equal(pc.list_value_length(found["features"]), wanted.width))
        keep = pc.and_(keep, pc.greater(pc.list_value_length(found["scores"]), 0))
        if wanted.since_ms is not None:
            keep = pc.and_(keep, pc.greater_equal(found["event_time"], wanted.since_ms))
        if wanted.model_version is not None:
            keep = pc.and_(keep, pc.equal(found["model_version"], wanted.model_version))
        found = found.filter(keep)
        return pa.table(
            {
                **{n: found[n] for n in ("partition", "offset", "event_id", "event_time")},
                "score": pc.list_element(found["scores"], 0),
                "features": found["features"],
            }
        )


class LabelColumns:
    """Decodes interactions to the columns partition, offset, event_id, label, occurred_at."""

    def __init__(self, resolve: Resolve) -> None:
        self._decoder = ColumnarDecoder(_INTERACTION, resolve)

    def table(self, chunk: Chunk) -> pa.Table:
        """Return the interactions of a chunk that say 0 or 1."""
        found = _located(self._decoder, chunk)
        return found.filter(pc.is_in(found["label"], value_set=pa.array([0.0, 1.0])))


def _located(decoder: ColumnarDecoder, chunk: Chunk) -> pa.Table:
    """Return the readable records with partition and offset; times as integer milliseconds."""
    decoded = decoder.decode(chunk.values)
    columns: dict[str, Any] = {
        "partition": pa.repeat(pa.scalar(chunk.partition, pa.int32()), len(decoded.rows)),
        "offset": pa.array(chunk.offsets[decoded.rows]),
    }
    for name, column in zip(decoded.columns.schema.names, decoded.columns.columns, strict=True):
        is_time = pa.types.is_timestamp(column.type)
        columns[name] = column.cast(pa.int64()) if is_time else column
    return pa.table(columns)


class NewestRows:
    """The newest rows read of one topic, oldest chunks first to go.

    Parameters
    ----------
    limit
        Most rows kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rows = 0
        """How many there are."""
        self._parts: dict[Partition, deque[tuple[int, pa.Table]]] = defaultdict(deque)
        self.first: dict[Partition, int] = {}
        """Offset from which on nothing is missing, where that is not where reading began."""

    def append_chunk(self, chunk: Chunk, table: pa.Table) -> None:
        """Append the rows of a chunk, later than all before them in its partition."""
        if table.num_rows == 0:
            return
        parts = self._parts[chunk.topic, chunk.partition]
        parts.append((int(chunk.offsets[0]), table))
        self.rows += table.num_rows
        while self.rows > self._limit and self._drop():
            pass

    def _drop(self) -> bool:
        """Drop the oldest chunk of the partition that has most; return whether there was one."""
        position = max(self._parts, key=lambda p: sum(t.num_rows for _, t in self._parts[p]))
        parts = self._parts[position]
        if len(parts) < 2:
            return False
        self.rows -= parts.popleft()[1].num_rows
        self.first[position] = parts[0][0]
        return True

    def table(self) -> pa.Table | None:
        """Return all rows; None if there are none."""
        tables = [table for parts in self._parts.values() for _, table in parts]
        return pa.concat_tables(tables) if tables else None


def features_of(rows: pa.Table, width: int) -> Matrix:
    """Return the feature matrix, shape (n, width), float32."""
    flat = rows["features"].combine_chunks().flatten()
    matrix: Matrix = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
    return matrix


def labels_of(rows: pa.Table) -> Vector:
    """Return the labels, shape (n,), float64."""
    return _floats(rows["label"])


def scores_of(rows: pa.Table) -> Vector:
    """Return the scores given when the events were predicted, shape (n,), float64."""
    return _floats(rows["score"])


def ids_digest(rows: pa.Table) -> str:
    """Return the SHA-256 of the event ids in their order."""
    ids: list[Any] = rows["event_id"].to_pylist()
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    return values


class LabelRows:
    """The joined rows of a pipeline's two topics, from some offsets on.

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
        wanted: PredictionFilter,
        starts: Offsets | None = None,
        *,
        limit: int | None = None,
    ) -> None:
        names = config.topic_names
        self._predictions, self._interactions = names.predictions, names.interactions
        self._log = TopicLog(kafka, [self._predictions, self._interactions])
        self._columns = PredictionColumns(resolve, wanted), LabelColumns(resolve)
        most = limit or 2**62
        self._newest = NewestRows(most), NewestRows(most)
        self._starts = dict(starts) if starts is not None else self._tail(most)
        self._log.start(self._starts)

    def _tail(self, rows: int) -> dict[Partition, int]:
        """Return where each partition's share of the newest rows begins."""
        first, end = self._log.watermarks()
        of_topic = {topic: sum(t == topic for t, _ in end) for topic, _ in end}
        return {p: max(first[p], end[p] - rows // of_topic[p[0]]) for p in end}

    def advance(self, ends: Offsets | None = None) -> None:
        """Read what has been written until now, or what lies before ``ends`` and nothing else.

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
            self._newest[is_label].append_chunk(chunk, self._columns[is_label].table(chunk))

    def joined(self, at_least: int = 1) -> pa.Table | None:
        """Return the labelled rows read so far, by time; None if there cannot be so many."""
        predictions, labels = self._newest
        if min(predictions.rows, labels.rows) < at_least:
            return None
        found, known = predictions.table(), labels.table()
        if found is None or known is None:
            return None
        return join_labels(found, known, prediction="first", label="first")

    def ranges(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return first and last offset read, both inclusive, by topic and partition."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        dropped = self._newest[0].first | self._newest[1].first
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


def rebuild_training_set(
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
    reader.advance(ends)
    rows = reader.joined()
    kept = {k: v for k, v in source.items() if k not in ("labelled", "ids_sha256")}
    made = None if rows is None else make_training_set(rows, config, kept)
    if made is None or made.manifest() != dict(manifest):
        got = "no rows" if made is None else made.sha256
        raise ConfigError(
            f"training set: expected sha256 {manifest['sha256']}, got {got}: "
            "the topics no longer hold what it was made of"
        )
    return made


def offsets_after(manifest: Mapping[str, Any]) -> dict[Partition, int]:
    """Return the offsets behind what a training set was made of."""
    return _bounds(manifest["source"]["ranges"])[1]


def training_rows(config: PipelineConfig, since_ms: int | None) -> PredictionFilter:
    """Return which predictions a model is trained on."""
    return PredictionFilter(len(config.feature_names), TRAINING_VARIANTS, since_ms)


def _bounds(ranges: Mapping[str, Any]) -> tuple[dict[Partition, int], dict[Partition, int]]:
    starts: dict[Partition, int] = {}
    ends: dict[Partition, int] = {}
    for topic, partitions in ranges.items():
        for number, span in partitions.items():
            starts[topic, int(number)] = span["first"]
            ends[topic, int(number)] = span["last"] + 1
    return starts, ends
