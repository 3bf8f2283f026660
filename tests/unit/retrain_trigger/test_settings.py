from __future__ import annotations

import json
from pathlib import Path

import pytest
from penstock_retrain_trigger.__main__ import main
from penstock_retrain_trigger.settings import PREFIX, TriggerSettings, load_settings
from penstock_schemas.errors import ConfigError

README = Path(__file__).parents[3] / "services" / "retrain-trigger" / "README.md"


def test_defaults_run_on_a_laptop() -> None:
    settings = load_settings()
    assert settings.metrics_port == 9104
    assert settings.ray_jobs_url == "http://127.0.0.1:8265"
    assert settings.job_module == "penstock_training_job"


def test_names_are_those_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}RAY_AUTH_TOKEN_PATH", "/data/ray-token")
    monkeypatch.setenv(f"{PREFIX}JOB_ENVIRONMENT", '{"A": "b"}')
    monkeypatch.setenv(f"{PREFIX}PORT", "9999")  # the stack's, not ours
    settings = load_settings()
    assert settings.ray_auth_token_path == Path("/data/ray-token")
    assert settings.job_environment["A"].get_secret_value() == "b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RAY_JOB_URL", "x"),
        ("METRICS_PORT", "many"),
        ("JOB_NICENESS", "20"),
        ("JOB_MODULE", "x; rm"),
        ("RESUBMIT_WAIT_S", "0"),
        ("MAX_SUBMISSIONS", "0"),
        ("PIPELINES", "[]"),
    ],
)
def test_wrong_setting_stops_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}{name}", value)
    with pytest.raises(ConfigError, match=name):
        load_settings()
    assert main(["check-config"]) == 1
    assert name in capsys.readouterr().err


def test_check_config_masks_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}JOB_ENVIRONMENT", '{"A": "hidden"}')
    assert main(["check-config"]) == 0
    printed = capsys.readouterr().out
    assert "hidden" not in printed
    assert json.loads(printed)["job_environment"] == {"A": "**********"}


def test_every_setting_is_in_the_readme() -> None:
    text = README.read_text()
    missing = [name for name in TriggerSettings.model_fields if name.upper() not in text]
    assert not missing
