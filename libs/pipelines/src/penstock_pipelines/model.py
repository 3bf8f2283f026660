"""The model of ``pipeline.yaml``: one frozen value object per section.

What a field means is written under it; the JSON Schema and the reference are made from here.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from penstock_schemas.topics import PipelineTopics
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from penstock_pipelines.batching import Batching, Limits
from penstock_pipelines.lifecycle import Labels, Monitor, Retrain, Rollout
from penstock_pipelines.section import Section

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,48}$")]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


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
