"""Settings of the service, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from penstock_registry.schema_registry import RegistrySettings
from penstock_service import settings as service_settings
from penstock_streaming.settings import KafkaSettings, LoopSettings
from pydantic import Field, PositiveFloat
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "PENSTOCK_INGEST_"
KNOWN_TO_THE_STACK: Final = frozenset({"PENSTOCK_INGEST_PORT"})
"""Read by ``penstock up``, which sets our own names from it."""


class IngestSettings(BaseSettings):
    """How this service reaches its neighbours. Immutable.

    A nested field is named with two underscores: ``PENSTOCK_INGEST_KAFKA__BOOTSTRAP_SERVERS``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    """Connection to Kafka."""
    registry: RegistrySettings = RegistrySettings()
    """Connection to the schema registry."""
    loop: LoopSettings = LoopSettings()
    """The Kafka loop; batch rows, batches in flight and commit interval are pipeline.yaml's."""
    pipelines: tuple[Path, ...] = Field(default=(Path("pipelines/fraud"),), min_length=1)
    """Pipeline folders, a JSON list."""
    feast_dir: Path = Path(".penstock/feast")
    """Folder with one Feast repository per pipeline."""
    metrics_host: str = "127.0.0.1"
    """Address that /live, /ready and /metrics listen on."""
    metrics_port: int = Field(default=9101, ge=0, le=65535)
    """Port of /live, /ready and /metrics; 0 takes a free one."""
    run_dir: Path | None = None
    """Folder for what was in flight when a worker was killed; unset, no poison record is found."""
    start_timeout_s: PositiveFloat = 120.0
    """Longest wait for registry and broker at the start, seconds; then the process exits."""
    stuck_after_s: PositiveFloat = 120.0
    """Silence of a loop after which /live says no, seconds; more than a restore may take."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is logged."""


def load_settings(environment: Mapping[str, str] | None = None) -> IngestSettings:
    """Read the settings; see `penstock_service.settings.load_settings`."""
    return service_settings.load_settings(IngestSettings, KNOWN_TO_THE_STACK, environment)
