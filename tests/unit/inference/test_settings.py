from __future__ import annotations

import pytest
from penstock_inference.settings import load_settings
from penstock_schemas.errors import ConfigError

PREFIX = "PENSTOCK_INFERENCE_"


def test_nested_names_and_model_threshold_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TRITON__GRPC_URL", "triton:8001")
    monkeypatch.setenv(f"{PREFIX}REPLICAS", "3")
    monkeypatch.setenv("MODEL_THRESHOLD", "0.25")
    settings = load_settings()
    assert settings.triton.grpc_url == "triton:8001"
    assert settings.replicas == 3
    assert settings.threshold == 0.25


def test_threshold_is_the_pipelines_own_by_default() -> None:
    assert load_settings().threshold is None


@pytest.mark.parametrize("name", ["REPLICA", "TRITON_GRPC_URL", "THRESHOLD"])
def test_mistyped_name_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(PREFIX + name, "1")
    with pytest.raises(ConfigError, match=f"unknown setting {PREFIX}{name}"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{PREFIX}TRITON__GRPC", "x"),
        (f"{PREFIX}REPLICAS", "0"),
        (f"{PREFIX}GATEWAY_PORT", "0"),
        ("MODEL_THRESHOLD", "1.5"),
    ],
)
def test_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        load_settings()


def test_port_of_the_stack_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_INFERENCE_PORT", "1")
    load_settings()
