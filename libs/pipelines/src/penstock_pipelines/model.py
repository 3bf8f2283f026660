"""The model of ``pipeline.yaml``: one frozen value object per section.

What a field means is written under it; the JSON Schema and the reference are made from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from penstock_schemas.topics import MIB, PipelineTopics
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,48}$")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A section of pipeline.yaml: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Limits(Section):
    """Limits on events, and on how many of them may fail."""

    max_event_bytes: PositiveInt = MIB
    """Larger records become dead letters of class oversize, bytes. Read at the start."""
    max_dead_letter_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the last 1,000 records of a partition that may become dead letters; beyond it the
    partition is closed until this is raised. 0 for any share. Follows an edit within seconds."""
    max_dead_letters_in_row: Annotated[int, Field(ge=0)] = 50
    """Dead letters one after the other in a partition; beyond it the partition is closed until
    this is raised. 0 for any number. Follows an edit within seconds."""


class Batching(Section):
    """Batches of the stream path; a running service follows an edit within seconds."""

    max_batch_rows: PositiveInt = 4096
    """Largest poll, rows."""
    max_in_flight: PositiveInt = 2
    """Batches submitted and not finished."""
    commit_interval_ms: PositiveInt = 100
    """Time between transaction commits, milliseconds."""
    deadline_ms: PositiveInt | None = None
    """Age of an event, by its event time, at which its features are not worth a prediction any
    more: the outcome is expired, milliseconds. Unset, no event is too old."""


class Monitor(Section):
    """What the drift service watches, and when it calls a change drift."""

    features: tuple[str, ...] | None = None
    """Columns of the feature matrix compared with the training reference; by default all that are
    computed from the event alone or read from feast. Clock features follow the window's hours and
    aggregates the age of the stream, so neither is compared unless named here."""
    window_rows: PositiveInt = 5_000
    """Rows of one window compared with the reference."""
    psi_threshold: PositiveFloat = 0.2
    """Population stability index that counts as a change."""
    psi_windows: PositiveInt = 2
    """Windows in a row that must reach it before the change is confirmed."""
    adwin_delta: PositiveFloat = 0.002
    """Confidence of the change detector on the error; smaller is more careful."""
    evidence_labels: PositiveInt = 1_000
    """Joined labels after the change before it is confirmed."""
    degradation: Annotated[float, Field(gt=1)] = 1.5
    """How many times its earlier value the error over what the model expects must be after the
    change."""
    reopen_labels: PositiveInt = 100_000
    """Joined labels after which drift that still lasts is reported anew."""


class Labels(Section):
    """How interactions become labels of predictions."""

    horizon_s: PositiveFloat = 604_800.0
    """How long a prediction waits for its label, seconds of event time."""
    max_waiting: PositiveInt = 500_000
    """Most predictions, and most early labels, that wait at a time; beyond it the oldest go."""


class Retrain(Section):
    """When a request becomes a training, and on what."""

    enabled: bool = True
    """Whether requests other than by hand are accepted."""
    cooldown_s: Annotated[float, Field(ge=0)] = 3_600.0
    """Least time between two accepted requests other than by hand, seconds."""
    max_per_day: PositiveInt = 10
    """Most accepted requests within 24 hours."""
    min_labels: PositiveInt = 10_000
    """Joined labels that a training set needs."""
    max_labels: PositiveInt = 30_000
    """Most joined labels used, the newest first."""
    label_wait_s: PositiveFloat = 3_600.0
    """Longest wait for enough labels, seconds."""


class Rollout(Section):
    """How a new version takes over."""

    canary_percent: Annotated[int, Field(ge=1, le=50)] = 10
    """Share of the keys that the candidate answers, percent."""
    min_canary_rows: PositiveInt = 2_000
    """Predictions of the candidate with a label before a verdict."""
    max_wait_s: PositiveFloat = 3_600.0
    """Longest wait for them, seconds; then the candidate is rejected."""
    min_gain: float = 0.0
    """The candidate's AUC less the champion's, on the same rows, must reach this with 95 %
    confidence for a promotion."""


class EventSection(Section):
    """How an event is read."""

    schema_file: str = Field("event.avsc", alias="schema")
    """Avro schema of the event, a file in the pipeline's folder."""
    formats: tuple[Literal["avro", "json"], ...] = ("avro", "json")
    """Accepted encodings: avro (Confluent framing) and json (one object)."""
    id: FieldName = "event_id"
    """Field with the event's own id (string)."""
    key: FieldName
    """Field with the entity's key (string, long or int)."""
    time: FieldName = "event_time"
    """Field with the event time (timestamp-millis)."""
    key_required: bool = True
    """Whether a record without a Kafka key is refused."""


class Rule(Section):
    """A condition on one field; a record that breaks it becomes a dead letter of class rule."""

    field: FieldName
    """The field it is about."""
    min: float | None = None
    """Smallest value allowed."""
    max: float | None = None
    """Largest value allowed."""
    one_of: tuple[str, ...] | None = None
    """Values allowed."""
    max_length: PositiveInt | None = None
    """Longest string allowed, in characters."""
    pattern: str | None = None
    """Regular expression (RE2) that the whole string must match."""


class Aggregate(Section):
    """A running value per entity over its earlier events, decayed by half-life."""

    function: Literal["count", "sum", "mean", "std", "zscore", "ratio", "since_last", "max"]
    """count, sum, mean, std and max look at earlier events; zscore and ratio compare this event
    with them; since_last is seconds since the entity's last event."""
    of: FieldName | None = None
    """Numeric field aggregated; not for count and since_last."""
    half_life_s: PositiveFloat = 86_400.0
    """Time after which an earlier event counts half, seconds."""


class Feature(Section):
    """One feature, or several for one_hot. Exactly one of from, aggregate and feast is given."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the feature; one_hot appends ``=value``."""
    from_field: FieldName | None = Field(None, alias="from")
    """Event field it is computed from."""
    transform: Literal[
        "identity", "log1p", "one_hot", "hour_sin", "hour_cos", "weekday", "is_true"
    ] = "identity"
    """How the field becomes a number."""
    values: tuple[str, ...] = ()
    """Values of one_hot, in order; an unseen value gives zeros."""
    aggregate: Aggregate | None = None
    """A running value per entity, kept by ingest."""
    feast: Annotated[str, Field(pattern=r"^[a-z0-9_]+:[A-Za-z0-9_]+$")] | None = None
    """Online feature ``view:feature`` of the entity."""
    log1p: bool = False
    """Apply log1p to an aggregate or a feast feature."""
    default: float = 0.0
    """Value where the entity, or its history, is not known."""
    missing: Literal["reject", "impute"] = "reject"
    """What NaN, Inf or null in the event field does: refuse the event, or use the default."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [self.from_field, self.aggregate, self.feast]
        if sum(s is not None for s in sources) != 1:
            raise ValueError(f"feature {self.name!r}: give exactly one of from, aggregate, feast")
        if (self.transform == "one_hot") != bool(self.values):
            raise ValueError(
                f"feature {self.name!r}: values belong to transform one_hot, and only there"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it becomes, in order."""
        if self.transform == "one_hot":
            return tuple(f"{self.name}={v}" for v in self.values)
        return (self.name,)


class WriteBack(Section):
    """Latest aggregates written to the online store in batches, for other readers."""

    view: str
    """Feature view written to."""
    fields: dict[str, str]
    """Feature of the view: name of our feature."""
    state: str | None = None
    """Feature of the view (Array(Float64)) that takes the entity's whole aggregate state, so that
    the REST path computes the same features as the stream."""
    every_s: PositiveFloat = 5.0
    """Time between writes, seconds."""


class FeastSection(Section):
    """Use of the Feast online store; the definitions are in the pipeline's features.py."""

    entity: str
    """Join key of the entity, filled with the event's key."""
    timeout_s: PositiveFloat = 2.0
    """Deadline of one online read, seconds."""
    write_back: WriteBack | None = None


class Bootstrap(Section):
    """Where the first model's training data come from."""

    simulator: str | None = None
    """Name of a generator of the simulator."""
    events: PositiveInt = 40_000
    """Events drawn from the generator."""
    seed: int = 7
    """Seed of the generator's history."""
    data: str | None = None
    """A CSV file in the pipeline's folder instead: the event's fields and the label."""
    label: str = "label"
    """Column of the label in that file."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.simulator is None) == (self.data is None):
            raise ValueError("bootstrap: give exactly one of simulator, data")
        return self


class ModelSection(Section):
    """The model served."""

    kind: Literal["mlp", "logistic"] = "mlp"
    """Built-in trainer."""
    max_batch_rows: PositiveInt = 1024
    """Largest batch the model server takes, rows."""
    timeout_s: PositiveFloat = 5.0
    """Deadline of one inference call, seconds."""
    bootstrap: Bootstrap


class PipelineConfig(Section):
    """A whole ``pipeline.yaml``."""

    pipeline: Name
    """Name; the folder's name."""
    description: str = ""
    """One line for people."""
    partitions: PositiveInt = 4
    """Partitions of the keyed topics."""
    topics: dict[str, str] = Field(default_factory=dict)
    """Topic names that differ from the convention, by role."""
    event: EventSection
    rules: tuple[Rule, ...] = ()
    limits: Limits = Limits()
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    feast: FeastSection | None = None
    model: ModelSection
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Decision threshold; MODEL_THRESHOLD overrides it."""
    batching: Batching = Batching()
    monitor: Monitor = Monitor()
    labels: Labels = Labels()
    retrain: Retrain = Retrain()
    rollout: Rollout = Rollout()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.feature_names)) != len(self.feature_names):
            raise ValueError("features: names must be unique")
        if self.feast is None and any(f.feast for f in self.features):
            raise ValueError("features: a feast feature needs the section feast")
        for name in self.monitor.features or ():
            if name not in self.feature_names:
                raise ValueError(f"monitor.features: {name!r} is no column of the feature matrix")
        return self

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of the feature matrix, in order."""
        return tuple(c for f in self.features for c in f.columns)

    @property
    def monitored_features(self) -> tuple[str, ...]:
        """Columns of the feature matrix that are compared with the training reference."""
        if self.monitor.features is not None:
            return self.monitor.features
        clocks = ("hour_sin", "hour_cos", "weekday")
        stable = [f for f in self.features if f.aggregate is None and f.transform not in clocks]
        return tuple(c for f in stable for c in f.columns)

    @property
    def topic_names(self) -> PipelineTopics:
        """The pipeline's topic names."""
        return PipelineTopics(self.pipeline, self.topics)


def live_settings(batching: Batching, limits: Limits) -> dict[str, Any]:
    """Return what a running loop takes from pipeline.yaml, by the names of its settings."""
    return {
        "max_batch_rows": batching.max_batch_rows,
        "max_in_flight": batching.max_in_flight,
        "commit_interval_s": batching.commit_interval_ms / 1000,
        "max_dead_letter_share": limits.max_dead_letter_share,
        "max_dead_letters_in_row": limits.max_dead_letters_in_row,
    }
