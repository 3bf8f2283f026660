"""Settings of the service, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from penstock_registry.schema_registry import RegistrySettings
from penstock_service import settings as service_settings
from penstock_streaming.settings import KafkaSettings, LoopSettings
from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "PENSTOCK_DRIFT_"
KNOWN_TO_THE_STACK: Final = frozenset({"PENSTOCK_DRIFT_PORT"})
"""Read by ``penstock up``, which sets our own names from it."""


class DriftSettings(BaseSettings):
    """How this service reaches its neighbours. Immutable.

    A nested field is named with two underscores: ``PENSTOCK_DRIFT_KAFKA__BOOTSTRAP_SERVERS``. What
    counts as drift is not here: it is pipeline.yaml's ``monitor`` and ``labels``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,  # the loop's defaults here are not the library's
        use_attribute_docstrings=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    """Connection to Kafka."""
    registry: RegistrySettings = RegistrySettings()
    """Connection to the schema registry."""
    loop: LoopSettings = LoopSettings(commit_interval_s=0.5)
    """The Kafka loops; batch rows and batches in flight are pipeline.yaml's. Nobody waits for a
    single observation, so transactions are larger and fewer than those of predictions."""
    pipelines: tuple[Path, ...] = Field(default=(Path("pipelines/fraud"),), min_length=1)
    """Pipeline folders, a JSON list."""
    mlflow_url: str = "http://127.0.0.1:5000"
    """Tracking server with the training references."""
    mlflow_timeout_s: PositiveFloat = 5.0
    """Longest wait for one answer of it, seconds."""
    reports_dir: Path = Path(".penstock/reports")
    """Folder of the reports, one folder per pipeline in it."""
    report_timeout_s: PositiveFloat = 120.0
    """Longest time that making one report may take, seconds."""
    report_attempts: PositiveInt = 3
    """Attempts at one report in the life of this process."""
    snapshot_every_s: PositiveFloat = 5.0
    """Least time between two snapshots of the state, seconds."""
    metrics_host: str = "127.0.0.1"
    """Address that /live, /ready and /metrics listen on."""
    metrics_port: int = Field(default=9103, ge=0, le=65535)
    """Port of /live, /ready and /metrics; 0 takes a free one."""
    run_dir: Path | None = None
    """Folder for what was in flight when a worker was killed; unset, no poison record is found."""
    start_timeout_s: PositiveFloat = 120.0
    """Longest wait for registry and broker at the start, seconds; then the process exits."""
    stuck_after_s: PositiveFloat = 120.0
    """Time without a turn of a loop after which /live fails, seconds; more than a restore takes."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is logged."""


def load_settings(environment: Mapping[str, str] | None = None) -> DriftSettings:
    """Read the settings; see `penstock_service.settings.load_settings`."""
    return service_settings.load_settings(DriftSettings, KNOWN_TO_THE_STACK, environment)
