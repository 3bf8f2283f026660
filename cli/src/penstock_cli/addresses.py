"""Where the verbs find Kafka and the registry: the embedded stack's, or those of the settings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from penstock_streaming.registry import RegistrySettings
from penstock_streaming.service_settings import load_settings
from penstock_streaming.settings import KafkaSettings
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock_cli.options import Profile

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

_OWN: Final = ("PENSTOCK_KAFKA__", "PENSTOCK_REGISTRY__")


class Addresses(BaseSettings):
    """How a verb reaches what it acts on. Immutable.

    Names as in the services' settings: ``PENSTOCK_KAFKA__BOOTSTRAP_SERVERS``,
    ``PENSTOCK_REGISTRY__URL``. Neither has a default: a verb for production that was given no
    address must not act on this machine.
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

    kafka = KafkaSettings(bootstrap_servers=config.endpoints.address("KAFKA"))
    return Addresses(
        kafka=kafka, registry=RegistrySettings(url=config.endpoints.url("REGISTRY", API_PATH))
    )
