"""Settings from the environment."""

from __future__ import annotations

import pytest
from penstock_drift.__main__ import main
from penstock_drift.settings import load_settings
from penstock_schemas.errors import ConfigError


def test_defaults_are_a_laptops(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings({})
    assert settings.metrics_port == 9103
    assert settings.mlflow_url == "http://127.0.0.1:5000"


def test_a_mistyped_name_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_DRIFT_MLFLOWURL"):
        load_settings({"PENSTOCK_DRIFT_MLFLOWURL": "x"})


def test_check_config_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_DRIFT_KAFKA__SASL_PASSWORD", "hidden-one")
    assert main(["check-config"]) == 0
    shown = capsys.readouterr().out
    assert '"mlflow_url"' in shown
    assert "hidden-one" not in shown


def test_one_setting_of_the_loop_leaves_our_other_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DRIFT_LOOP__MAX_TRANSACTION_ROWS", "77")
    loop = load_settings().loop
    assert (loop.max_transaction_rows, loop.commit_interval_s) == (77, 0.5)
