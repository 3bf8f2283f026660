"""The project's files, and a way to read settings as a container would."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from harness import deployment
from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[3]
SERVICES = ("ingest", "inference", "drift", "retrain-trigger")
APP = "/app/pipelines"


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def base():
    """Return the base's resources, fresh for each test to spoil."""
    return deployment.base(ROOT / "k8s" / "base")


@pytest.fixture
def image_environment():
    """Return what each service's image sets."""
    return {
        name: deployment.read_dockerfile(ROOT / "docker/Dockerfile", PACKAGE=name).environment()
        for name in SERVICES
    }


@pytest.fixture
def load(monkeypatch) -> Callable[[str, Mapping[str, str]], BaseSettings]:
    """Return a reader of a service's settings from a whole environment."""

    def read(service: str, environment: Mapping[str, str]) -> BaseSettings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        package = f"penstock_{service.replace('-', '_')}"
        module = importlib.import_module(f"{package}.settings")
        prefix = f"PENSTOCK_{service.replace('-', '_').upper()}_"
        kinds = [
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if issubclass(kind, BaseSettings) and kind.model_config.get("env_prefix") == prefix
        ]
        assert len(kinds) == 1, f"{module.__name__}: expected one class of settings"
        return module.load_settings(dict(environment))

    return read
