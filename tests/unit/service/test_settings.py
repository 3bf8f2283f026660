"""A mistyped variable stops the start and is named, at every level."""

import pytest
from penstock_schemas.errors import ConfigError
from penstock_service.settings import load_settings
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from pydantic_settings import BaseSettings, SettingsConfigDict


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    wait_s: PositiveFloat = 1.0


class Outer(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="PENSTOCK_OUTER_", env_nested_delimiter="__")
    inner: Inner = Inner()
    paths: list[str] = []
    threshold: float | None = Field(default=None, validation_alias="MODEL_THRESHOLD")


def test_nested_names_and_aliases_are_read(monkeypatch):
    monkeypatch.setenv("PENSTOCK_OUTER_INNER__WAIT_S", "2.5")
    monkeypatch.setenv("MODEL_THRESHOLD", "0.25")
    settings = load_settings(Outer)
    assert (settings.inner.wait_s, settings.threshold) == (2.5, 0.25)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PENSTOCK_OUTER_INER__WAIT_S", "1", "unknown setting PENSTOCK_OUTER_INER__WAIT_S"),
        ("PENSTOCK_OUTER_THRESHOLD", "1", "unknown setting PENSTOCK_OUTER_THRESHOLD"),
        ("PENSTOCK_OUTER_INNER__WAIT", "1", "PENSTOCK_OUTER_INNER__WAIT:"),
        ("PENSTOCK_OUTER_INNER__WAIT_S", "-1", "PENSTOCK_OUTER_INNER__WAIT_S:"),
        ("PENSTOCK_OUTER_PATHS", "a,b", "lists and nested values are JSON"),
        ("MODEL_THRESHOLD", "high", "MODEL_THRESHOLD:"),
    ],
)
def test_a_setting_that_means_nothing_is_named(monkeypatch, name, value, told):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        load_settings(Outer)


def test_names_of_the_stack_are_left_alone(monkeypatch):
    monkeypatch.setenv("PENSTOCK_OUTER_PORT", "1")
    load_settings(Outer, frozenset({"PENSTOCK_OUTER_PORT"}))
