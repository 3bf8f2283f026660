"""Kafka settings in the terms of aiokafka and Faust: the only place that knows them.

Durations are seconds in the settings and milliseconds only in what is handed to aiokafka.
"""

from __future__ import annotations

import ssl
from typing import Any

import faust
from penstock_streaming.settings import KafkaSettings


def aiokafka_arguments(kafka: KafkaSettings) -> dict[str, Any]:
    """Return the arguments of any aiokafka client."""
    password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    return {
        "bootstrap_servers": kafka.bootstrap_servers,
        "client_id": "penstock-retrain-trigger",
        "request_timeout_ms": int(kafka.request_timeout_s * 1000),
        "metadata_max_age_ms": int(kafka.metadata_refresh_s * 1000),
        "security_protocol": kafka.security_protocol.upper(),
        "ssl_context": ssl_context(kafka),
        "sasl_mechanism": kafka.sasl_mechanism or "PLAIN",
        "sasl_plain_username": kafka.sasl_username,
        "sasl_plain_password": password,
    }


def faust_broker(kafka: KafkaSettings) -> str:
    """Return the brokers as Faust names them."""
    return "kafka://" + kafka.bootstrap_servers.replace(",", ";").replace(" ", "")


def faust_credentials(kafka: KafkaSettings) -> Any:
    """Return Faust's credentials, None for a plain connection."""
    context = ssl_context(kafka)
    if kafka.security_protocol.startswith("sasl"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=password,
            mechanism=kafka.sasl_mechanism or "PLAIN",
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context, None without TLS."""
    if "ssl" not in kafka.security_protocol.split("_"):
        return None
    context = ssl.create_default_context(cafile=kafka.ssl_ca_file)
    if kafka.ssl_certificate_file is not None:
        password = kafka.ssl_key_password.get_secret_value() if kafka.ssl_key_password else None
        context.load_cert_chain(kafka.ssl_certificate_file, kafka.ssl_key_file, password)
    return context
