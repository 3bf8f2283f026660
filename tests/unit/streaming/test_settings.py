"""Settings become new librdkafka dictionaries; secrets stay hidden; client log lines are few."""

from __future__ import annotations

import logging

import pytest
from penstock_streaming.settings import (
    MESSAGE_MAX_BYTES,
    KafkaSettings,
    LoopSettings,
    OncePerWindow,
    client_logger,
)
from pydantic import ValidationError


def test_each_dictionary_is_new() -> None:
    settings = KafkaSettings()
    settings.as_librdkafka()["bootstrap.servers"] = "elsewhere"
    assert settings.as_librdkafka()["bootstrap.servers"] == "127.0.0.1:9092"


def test_a_secret_is_in_the_dictionary_and_in_no_text() -> None:
    settings = KafkaSettings(security_protocol="sasl_ssl", sasl_password="hush")  # noqa: S106
    assert settings.as_librdkafka()["sasl.password"] == "hush"
    assert "hush" not in repr(settings)
    assert "hush" not in settings.model_dump_json()


def test_unset_options_are_left_to_the_client() -> None:
    assert not [k for k in KafkaSettings().as_librdkafka() if k.startswith(("sasl", "ssl"))]


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        KafkaSettings(bootstrap="x")  # type: ignore[call-arg]


def test_the_consumer_never_commits_and_reads_committed_records() -> None:
    config = KafkaSettings().consumer_config("g", LoopSettings())
    assert config["enable.auto.commit"] is False
    assert config["isolation.level"] == "read_committed"
    assert config["auto.offset.reset"] == "error"
    assert config["fetch.queue.backoff.ms"] == 10


def test_the_consumer_protocol_gets_nothing_that_is_the_brokers_to_set() -> None:
    config = KafkaSettings().consumer_config("g", LoopSettings(group_protocol="consumer"))
    assert config["group.protocol"] == "consumer"
    forbidden = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}
    assert not forbidden & set(config)
    classic = KafkaSettings().consumer_config("g", LoopSettings())
    assert forbidden <= set(classic)


def test_a_transactional_producer_has_an_id_and_a_short_time_out() -> None:
    config = KafkaSettings().producer_config(LoopSettings(), "id")
    assert config["transactional.id"] == "id"
    assert config["transaction.timeout.ms"] == 10_000
    assert config["retry.backoff.ms"] == 10
    assert config["partitioner"] == "murmur2_random"
    assert config["message.max.bytes"] == MESSAGE_MAX_BYTES


@pytest.mark.parametrize(
    ("loop", "transactional_id", "linger_ms"),
    [
        (LoopSettings(), "id", 50.0),
        (LoopSettings(), None, 1.0),
        (LoopSettings(commit_interval_s=0.02), "id", 1.0),
        (LoopSettings(commit_interval_s=0.02, linger_s=0.005), "id", 5.0),
        (LoopSettings(linger_s=0.0), None, 0.0),
    ],
    ids=["default", "no transaction", "short interval", "shorter linger", "none"],
)
def test_records_wait_for_company_only_where_a_commit_does_not_wait_for_them(
    loop: LoopSettings, transactional_id: str | None, linger_ms: float
) -> None:
    config = KafkaSettings().producer_config(loop, transactional_id)
    assert config["linger.ms"] == linger_ms


def test_a_flushing_producer_has_no_transaction() -> None:
    config = KafkaSettings().producer_config(LoopSettings())
    assert not [key for key in config if key.startswith("transaction")]


def line(facility: str, client: str = "c") -> logging.LogRecord:
    return logging.LogRecord("k", logging.ERROR, "", 0, "%s [%s] %s", (facility, client, "x"), None)


def test_a_kind_passes_once_per_window() -> None:
    now = [0.0]
    gate = OncePerWindow(window_s=30.0, clock=lambda: now[0])
    assert gate.filter(line("FAIL"))
    assert not gate.filter(line("FAIL"))
    assert gate.filter(line("FAIL", client="d"))
    assert gate.filter(line("CONFWARN"))
    now[0] = 31.0
    assert gate.filter(line("FAIL"))


def test_the_filter_is_installed_once() -> None:
    client_logger()
    assert len([f for f in client_logger().filters if isinstance(f, OncePerWindow)]) == 1
