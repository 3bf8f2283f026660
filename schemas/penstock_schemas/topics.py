"""Names, owners and shapes of a pipeline's topics.

One `Topic` says everything that ``penstock topics plan`` compares with the broker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MIB: Final = 1024 * 1024
DEAD_LETTER_HEADROOM_BYTES: Final = 64 * 1024
"""A dead letter is the original record plus headers, so its topic takes this much more."""
EVENTS_MAX_BYTES: Final = 4 * MIB
NO_LIMIT_MS: Final = 2**63 - 1
RETENTION_BYTES: Final = 4 * 1024 * MIB
"""Kept per partition of the topics that take any timestamp."""
AUDIT_TOPIC: Final = "penstock.audit.v1"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be on the broker.

    Parameters
    ----------
    name
        Topic name.
    partitions
        Number of partitions; never lowered.
    value_schema
        File name of the ``.avsc`` registered under ``<name>-value``; None where the value is
        the user's own or raw bytes.
    config
        Topic configuration that differs from the broker's default.
    written_by
        Who writes it, as the contract names them.
    """

    name: str
    partitions: int
    value_schema: str | None = None
    config: dict[str, str] = field(default_factory=dict)
    written_by: str = ""


@dataclass(frozen=True, slots=True)
class PipelineTopics:
    """The topic names of one pipeline.

    Examples
    --------
    >>> PipelineTopics("fraud").predictions
    'fraud.predictions.v1'
    >>> PipelineTopics("fraud").dead_letter("fraud.events.v1")
    'fraud.events.v1.dlq'
    """

    pipeline: str
    overrides: dict[str, str] = field(default_factory=dict)

    def _name(self, role: str, default: str) -> str:
        return self.overrides.get(role, f"{self.pipeline}.{default}")

    @property
    def events(self) -> str:
        """Raw events, written by producer applications."""
        return self._name("events", "events.v1")

    @property
    def features(self) -> str:
        """FeatureVectors, written by ingest."""
        return self._name("features", "features.v1")

    @property
    def predictions(self) -> str:
        """Predictions of the stream path, written by inference."""
        return self._name("predictions", "predictions.v1")

    @property
    def predictions_rest(self) -> str:
        """Predictions of the REST path, written by the gateway, at most once."""
        return self._name("predictions_rest", "predictions.rest.v1")

    @property
    def predictions_shadow(self) -> str:
        """Predictions of shadow versions and isolated replays."""
        return self._name("predictions_shadow", "predictions.shadow.v1")

    @property
    def interactions(self) -> str:
        """Labels and feedback, written by producer applications."""
        return self._name("interactions", "interactions.v1")

    @property
    def models(self) -> str:
        """Routing states, compacted, one partition."""
        return self._name("models", "models.v1")

    @property
    def drift(self) -> str:
        """Drift events, written by drift."""
        return self._name("drift", "drift.v1")

    @property
    def retrain(self) -> str:
        """Retrain events: requests, and what became of them."""
        return self._name("retrain", "retrain.v1")

    @property
    def observations(self) -> str:
        """Predictions and labels re-keyed by event id, drift's own input."""
        return self._name("observations", "observations.v1")

    @property
    def drift_state(self) -> str:
        """Snapshots of drift's state, compacted, same partitions as observations."""
        return self._name("drift_state", "drift-state.v1")

    @property
    def ingest_state(self) -> str:
        """Changelog of ingest's keyed aggregates, compacted, same partitions as events."""
        return self._name("ingest_state", "ingest-state.v1")

    @staticmethod
    def dead_letter(topic: str) -> str:
        """Return the dead-letter topic of ``topic``."""
        return f"{topic}.dlq"

    @staticmethod
    def parked(topic: str) -> str:
        """Return the topic of records parked from ``topic``."""
        return f"{topic}.parked"

    def all(self, partitions: int) -> list[Topic]:
        """Return every topic of the pipeline that today's services use, as it should be.

        Parameters
        ----------
        partitions
            Partitions of the keyed topics; outputs go to the partition of their source record.
        """
        lz4 = {"compression.type": "producer"}
        # Events and interactions keep whatever timestamp their producer gave, and so do their dead
        # letters and what is replayed of them. Kafka's retention by time goes by that timestamp and
        # would delete old ones before they are read, so these topics are kept by size.
        any_timestamp = {
            **lz4,
            "message.timestamp.before.max.ms": str(NO_LIMIT_MS),
            "message.timestamp.after.max.ms": str(NO_LIMIT_MS),
            "retention.ms": "-1",
            "retention.bytes": str(RETENTION_BYTES),
        }
        # Histories of few records, and drift events carry the stream's own time.
        forever = {**lz4, "retention.ms": "-1"}
        events = {**any_timestamp, "max.message.bytes": str(EVENTS_MAX_BYTES)}
        dead = {
            **any_timestamp,
            "max.message.bytes": str(EVENTS_MAX_BYTES + DEAD_LETTER_HEADROOM_BYTES),
        }
        compacted = {"cleanup.policy": "compact", **lz4}
        snapshots = {
            **compacted,
            "max.message.bytes": str(EVENTS_MAX_BYTES),
            "segment.bytes": str(16 * MIB),  # compaction spares the newest segment
            "min.cleanable.dirty.ratio": "0.1",
        }
        return [
            Topic(self.events, partitions, None, events, "producer applications"),
            Topic(self.features, partitions, "feature_vector.avsc", lz4, "ingest"),
            Topic(self.predictions, partitions, "prediction.avsc", lz4, "inference"),
            Topic(self.predictions_rest, partitions, "prediction.avsc", lz4, "gateway"),
            Topic(self.predictions_shadow, partitions, "prediction.avsc", lz4, "inference"),
            Topic(
                self.interactions,
                partitions,
                "interaction.avsc",
                any_timestamp,
                "producer applications",
            ),
            Topic(self.models, 1, "routing_state.avsc", compacted, "retrain-trigger, CLI"),
            Topic(self.ingest_state, partitions, None, compacted, "ingest"),
            # One partition: the order in which drift sees predictions and labels lies in the log,
            # and so do its alarms.
            Topic(self.observations, 1, "observation.avsc", lz4, "drift"),
            Topic(self.drift_state, 1, "drift_state.avsc", snapshots, "drift"),
            Topic(self.drift, 1, "drift_event.avsc", forever, "drift"),
            Topic(self.retrain, 1, "retrain_event.avsc", forever, "drift, CLI, retrain-trigger"),
            Topic(self.dead_letter(self.observations), 1, None, dead, "drift"),
            Topic(self.dead_letter(self.predictions), partitions, None, dead, "drift"),
            *(
                Topic(name(source), partitions, None, dead, writer)
                for source, writer in (
                    (self.events, "ingest"),
                    (self.features, "inference"),
                    (self.interactions, "drift"),
                )
                for name in (self.dead_letter, self.parked)
            ),
        ]
