"""Where the verbs find Kafka and the registry: the embedded stack's, or those of the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock_registry.schema_registry import RegistrySettings
from penstock_service.settings import load_settings
from penstock_streaming.settings import KafkaSettings
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock_cli.options import Profile

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

_OWN: Final = ("PENSTOCK_KAFKA__", "PENSTOCK_REGISTRY__")


class Addresses(BaseSettings):
    """How a verb reaches what it acts on. Immutable.

    Names as in the services' settings: ``PENSTOCK_KAFKA__BOOTSTRAP_SERVERS``,
    ``PENSTOCK_REGISTRY__URL``. Neither of the two has a default: a verb for production that was
    given no address must not act on this machine.
    """

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_",
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    kafka: KafkaSettings
    """Connection to Kafka."""
    registry: RegistrySettings
    """Connection to the schema registry."""
    mlflow_url: str | None = None
    """Tracking server; needed for a version that has not served yet."""
    triton_grpc: str | None = None
    """The model server, host:port; with ``models_dir``, versions are loaded before they serve."""
    models_dir: Path | None = None
    """The model server's repository; where it is not at hand, digests are not compared."""


def addresses(profile: Profile, config: StackConfig) -> Addresses:
    """Return the addresses that a profile means.

    Raises
    ------
    ConfigError
        Profile prod, and a setting is missing, unknown or out of range.
    """
    if profile is Profile.prod:
        return load_settings(
            Addresses, environment={n: "" for n in os.environ if n.startswith(_OWN)}
        )
    from penstock_stack.registry_server import API_PATH

    return Addresses(
        kafka=KafkaSettings(bootstrap_servers=config.endpoints.address("KAFKA")),
        registry=RegistrySettings(url=config.endpoints.url("REGISTRY", API_PATH)),
        mlflow_url=config.endpoints.url("MLFLOW"),
        triton_grpc=config.endpoints.address("TRITON_GRPC"),
        models_dir=config.models,
    )
