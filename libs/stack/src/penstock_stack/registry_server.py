"""The embedded schema registry: Apicurio, which keeps its state in Kafka."""

from __future__ import annotations

from penstock_stack import probes
from penstock_stack.artifacts import registry_home
from penstock_stack.component import Component, Launch, StackConfig
from penstock_stack.endpoints import HOST
from penstock_stack.kafka_server import java

API_PATH = "/apis/ccompat/v7"
"""Root of the Confluent-compatible API."""


def registry(config: StackConfig) -> Component:
    """Return the registry's component."""
    port = config.endpoints.port("REGISTRY")
    return Component(
        name="registry",
        prepare=lambda: _prepare(config),
        # Everything answers 404 until the registry has read its journal.
        is_ready=lambda: probes.http_ok(port, f"{API_PATH}/subjects"),
        needs=("kafka",),
        ports=("REGISTRY", "REGISTRY_MANAGEMENT"),
        endpoint=config.endpoints.url("REGISTRY", API_PATH),
        deadline_s=120.0,
    )


def _prepare(config: StackConfig) -> Launch:
    home = registry_home(config.cache)
    options = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    return Launch(
        (java(), *options, "-jar", "quarkus-run.jar"),
        {
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": config.endpoints.address("KAFKA"),
            # At start it polls its topic of snapshots twice for this long; the default of 5 s each
            # is ten seconds of waiting for nothing. Without a snapshot it reads the whole journal.
            "APICURIO_KAFKASQL_CONSUMER_POLL_TIMEOUT": "500",
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(config.endpoints.port("REGISTRY")),
            # Health and metrics of Quarkus itself, on a port of their own.
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": str(config.endpoints.port("REGISTRY_MANAGEMENT")),
            "QUARKUS_OTEL_SDK_DISABLED": "true",
        },
        home,
    )
