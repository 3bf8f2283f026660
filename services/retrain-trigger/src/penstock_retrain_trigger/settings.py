"""Settings of the service, read once from the environment."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from penstock_registry.schema_registry import RegistrySettings
from penstock_service import settings as service_settings
from penstock_streaming.settings import KafkaSettings
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "PENSTOCK_RETRAIN_TRIGGER_"
KNOWN_TO_THE_STACK: Final = frozenset({"PENSTOCK_RETRAIN_TRIGGER_PORT"})
"""Read by ``penstock up``, which sets our own names from it."""


class TriggerSettings(BaseSettings):
    """How this service reaches its neighbours. Immutable.

    A nested field is named with two underscores:
    ``PENSTOCK_RETRAIN_TRIGGER_KAFKA__BOOTSTRAP_SERVERS``.
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
    pipelines: tuple[Path, ...] = Field(default=(Path("pipelines/fraud"),), min_length=1)
    """Pipeline folders, a JSON list."""
    ray_jobs_url: str = "http://127.0.0.1:8265"
    """Address of Ray's dashboard, which takes the jobs."""
    ray_auth_token_path: Path | None = None
    """File with Ray's token; read at each call. Unset, none is sent."""
    ray_timeout_s: PositiveFloat = 10.0
    """Longest wait for an answer of Ray, seconds."""
    mlflow_url: str = "http://127.0.0.1:5000"
    """Address of MLflow, for the job."""
    triton_grpc: str = "127.0.0.1:8101"
    """Address of Triton, host:port, for the job."""
    models_dir: Path = Path(".penstock/models")
    """Triton's model repository, for the job."""
    job_python: str = sys.executable
    """Interpreter that runs the job, on Ray's host."""
    job_module: str = Field(
        default="penstock_training_job", pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
    )
    """Module that is the job."""
    job_niceness: int = Field(default=10, ge=0, le=19)
    """By how much the job stands back for what serves; 0 not at all."""
    job_cpus: NonNegativeFloat = 0.1
    """CPUs that Ray counts for the job's entry point."""
    job_environment: dict[str, SecretStr] = Field(default_factory=dict)
    """Variables that the job gets beside those of Ray's workers, a JSON object."""
    max_submissions: PositiveInt = 3
    """Most submissions of one request's job; then the request has failed."""
    resubmit_wait_s: float = Field(default=10.0, ge=3.0)
    """Wait before the second submission, seconds; it doubles for each one after. Ray watches a job
    for some seconds after its end, and would take the next one under its id for the dead one."""
    job_leave_s: PositiveFloat = 30.0
    """Time a job has to end by itself once its request has ended, seconds; then it is stopped."""
    watch_interval_s: PositiveFloat = 1.0
    """Time between two looks at the jobs, seconds."""
    metrics_host: str = "127.0.0.1"
    """Address that /live, /ready and /metrics listen on."""
    metrics_port: int = Field(default=9104, ge=0, le=65535)
    """Port of /live, /ready and /metrics; 0 takes a free one."""
    run_dir: Path | None = None
    """Accepted for the stack's sake: this service keeps nothing on disk."""
    session_timeout_s: float = Field(default=10.0, ge=6.0)
    """Silence after which the group gives our topics away, seconds."""
    write_timeout_s: PositiveFloat = 30.0
    """Longest wait for one step of writing or reading the topic, seconds."""
    start_timeout_s: PositiveFloat = 120.0
    """Longest wait for registry and broker at the start, seconds; then the process exits."""
    stuck_after_s: PositiveFloat = 60.0
    """Silence of the event loop after which /live says no, seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is logged."""


def load_settings(environment: Mapping[str, str] | None = None) -> TriggerSettings:
    """Read the settings; see `penstock_service.settings.load_settings`."""
    return service_settings.load_settings(TriggerSettings, KNOWN_TO_THE_STACK, environment)
