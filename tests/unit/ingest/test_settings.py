from __future__ import annotations

import json
from pathlib import Path

import pytest
from penstock_ingest.__main__ import main
from penstock_ingest.app import loop_settings
from penstock_ingest.settings import IngestSettings, load_settings
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError


def test_defaults_run_on_a_laptop() -> None:
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert settings.metrics_port == 9101


@pytest.mark.parametrize(("run_dir", "journal"), [(None, None), ("run", Path("run/flights"))])
def test_journal_of_what_is_in_flight_lies_in_the_run_folder(
    config: PipelineConfig, run_dir: str | None, journal: Path | None
) -> None:
    settings = IngestSettings.model_validate({"run_dir": run_dir})
    assert loop_settings(settings, config).journal_dir == journal


def test_nested_names_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INGEST_KAFKA__BOOTSTRAP_SERVERS", "broker:1")
    monkeypatch.setenv("PENSTOCK_INGEST_REGISTRY__URL", "http://registry")
    monkeypatch.setenv("PENSTOCK_INGEST_PIPELINES", '["a", "b"]')
    monkeypatch.setenv("PENSTOCK_INGEST_PORT", "9999")  # the stack's, not ours
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "broker:1"
    assert settings.registry.url == "http://registry"
    assert settings.pipelines == (Path("a"), Path("b"))
    assert settings.metrics_port == 9101


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENSTOCK_INGEST_KAFKA__BOOTSTRAP_SERVER", "x"),
        ("PENSTOCK_INGEST_METRIC_PORT", "1"),
        ("PENSTOCK_INGEST_METRICS_PORT", "many"),
        ("PENSTOCK_INGEST_LOOP__MAX_BATCH_ROWS", "0"),
        ("PENSTOCK_INGEST_PIPELINES", "[]"),
    ],
)
def test_wrong_setting_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        load_settings()
    assert main(["check-config"]) == 1
    assert name in capsys.readouterr().err


def test_list_that_is_no_json_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INGEST_PIPELINES", "pipelines/fraud")
    with pytest.raises(ConfigError, match="pipelines"):
        load_settings()


def test_check_config_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_INGEST_KAFKA__SASL_PASSWORD", "open sesame")
    assert main(["check-config"]) == 0
    printed = capsys.readouterr().out
    assert "sesame" not in printed
    assert set(json.loads(printed)["kafka"]["sasl_password"]) == {"*"}


def test_every_setting_is_described() -> None:
    assert all(field.description for field in IngestSettings.model_fields.values())
