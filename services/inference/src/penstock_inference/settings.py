"""Settings of the service, read once from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from penstock_registry.schema_registry import RegistrySettings
from penstock_service import settings as service_settings
from penstock_streaming.settings import KafkaSettings, LoopSettings
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX: Final = "PENSTOCK_INFERENCE_"
KNOWN_TO_THE_STACK: Final = frozenset({"PENSTOCK_INFERENCE_PORT"})
"""Read by ``penstock up``, which sets our own names from it."""


class TritonSettings(BaseModel):
    """Connection to the model server. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    grpc_url: str = "127.0.0.1:8101"
    """host:port of its gRPC endpoint."""
    admin_timeout_s: PositiveFloat = 5.0
    """Deadline of a question about a model, seconds. Inference has the pipeline's timeout_s."""
    load_timeout_s: PositiveFloat = 30.0
    """Deadline of loading a model, seconds."""
    keepalive_s: PositiveFloat = 10.0
    """Silence on a connection with calls in flight after which it is probed, seconds."""


class GatewaySettings(BaseModel):
    """The REST side. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_in_flight: PositiveInt = 64
    """Requests worked on at once; more are refused with 429."""
    retry_after_s: PositiveInt = 1
    """What a 429 or 503 tells the caller to wait, seconds."""
    max_request_rows: PositiveInt = 1024
    """Most rows of one inference request."""
    max_in_flight_rows: PositiveInt = 16_384
    """Rows worked on at once; a request beyond them is refused with 429."""
    max_body_bytes: PositiveInt = 4 * 1024 * 1024
    """Largest body that is read, unpacked; a larger one is refused with 413, bytes."""
    body_timeout_s: PositiveFloat = 10.0
    """Time in which a body must have arrived, seconds; 408 after it."""
    max_timeout_s: PositiveFloat = 30.0
    """Longest time for a request, which its caller may shorten, seconds; 504 after it."""
    publish_queue_rows: PositiveInt = 10_000
    """Predictions waiting to be produced; beyond it they are dropped and counted."""


class ShadowSettings(BaseModel):
    """What shadow versions are shown of the stream. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    percent: int = Field(default=100, ge=0, le=100)
    """Share of the keys whose rows are shown, percent; always the same keys."""
    queue_rows: PositiveInt = 20_000
    """Rows waiting to be shown; beyond it they are dropped and counted."""


class AutoscalingSettings(BaseModel):
    """When routers are added and removed. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    enabled: bool = False
    """Whether Serve decides the number of replicas; else it is ``replicas``, and what ``scale``
    has noted."""
    min_replicas: PositiveInt = 1
    """Least replicas of a pipeline."""
    max_replicas: PositiveInt = 8
    """Most replicas of a pipeline; never more than its features topic has partitions."""
    target_drain_s: PositiveFloat = 60.0
    """A backlog that takes longer than this to drain asks for another replica, seconds."""
    up_cooldown_s: float = Field(default=30.0, ge=0.0)
    """Least time between a change and adding replicas, seconds: a new one has to start, take its
    partitions and show what it does."""
    down_cooldown_s: float = Field(default=300.0, ge=0.0)
    """Time without a backlog, and since the last change, before a replica is removed, seconds."""

    @model_validator(mode="after")
    def _in_order(self) -> AutoscalingSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is more than max_replicas")
        return self


class InferenceSettings(BaseSettings):
    """How this service reaches its neighbours. Immutable.

    A nested field is named with two underscores: ``PENSTOCK_INFERENCE_KAFKA__BOOTSTRAP_SERVERS``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        populate_by_name=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    """Connection to Kafka."""
    registry: RegistrySettings = RegistrySettings()
    """Connection to the schema registry."""
    triton: TritonSettings = TritonSettings()
    """Connection to the model server."""
    gateway: GatewaySettings = GatewaySettings()
    """The REST side."""
    loop: LoopSettings = LoopSettings()
    """The Kafka loop; batch rows, batches in flight and commit interval are pipeline.yaml's."""
    shadow: ShadowSettings = ShadowSettings()
    """Shadow versions."""
    pipelines: tuple[Path, ...] = Field(default=(Path("pipelines/fraud"),), min_length=1)
    """Pipeline folders, a JSON list."""
    feast_dir: Path = Path(".penstock/feast")
    """Folder with one Feast repository per pipeline; the gateway reads online features there."""
    run_dir: Path = Path(".penstock/run")
    """Folder of a process's own: the wanted scale, journals of what is in flight."""
    ray_address: str = "127.0.0.1:6379"
    """host:port of the Ray head; its access token is found by Ray's own RAY_AUTH_TOKEN_PATH."""
    replicas: PositiveInt = 1
    """Router replicas per pipeline at start; each is a member of the consumer group."""
    autoscaling: AutoscalingSettings = AutoscalingSettings()
    """Replicas by what there is to do, in place of a fixed number; off by default."""
    replica_cpus: PositiveFloat = 0.1
    """CPUs that Ray reserves per replica. It binds nothing: too much, and jobs pend for ever."""
    gateway_host: str = "127.0.0.1"
    """Address that the gateway listens on."""
    gateway_port: int = Field(default=8000, ge=1, le=65535)
    """Port of the gateway."""
    metrics_host: str = "127.0.0.1"
    """Address that /live, /ready and /metrics listen on."""
    metrics_port: int = Field(default=9102, ge=0, le=65535)
    """Port of /live, /ready and /metrics; 0 takes a free one."""
    threshold: Annotated[float | None, Field(ge=0, le=1, validation_alias="MODEL_THRESHOLD")] = None
    """Decision threshold in place of the pipelines' own; the variable is MODEL_THRESHOLD."""
    start_timeout_s: PositiveFloat = 120.0
    """Longest wait for Ray at the start, seconds; then the process exits."""
    stuck_after_s: PositiveFloat = 120.0
    """Silence of a router's loop after which Serve replaces the replica, seconds."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe line that is logged."""


def load_settings(environment: Mapping[str, str] | None = None) -> InferenceSettings:
    """Read the settings; see `penstock_service.settings.load_settings`."""
    return service_settings.load_settings(InferenceSettings, KNOWN_TO_THE_STACK, environment)
