"""Ports: defaults of the contract, overrides, the common offset, and clear refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_schemas.errors import ConfigError
from penstock_stack.endpoints import HIDDEN_PORTS, PUBLIC_PORTS, Endpoints


def test_defaults_are_those_of_the_contract() -> None:
    endpoints = Endpoints.from_environment({})
    assert endpoints.address("KAFKA") == "127.0.0.1:9092"
    assert endpoints.url("GATEWAY") == "http://127.0.0.1:8000"
    assert endpoints.url("REGISTRY", "/apis") == "http://127.0.0.1:8081/apis"


def test_a_variable_overrides_one_port_only() -> None:
    endpoints = Endpoints.from_environment({"PENSTOCK_TRITON_GRPC_PORT": "7001"})
    assert endpoints.port("TRITON_GRPC") == 7001
    assert endpoints.port("TRITON") == PUBLIC_PORTS["TRITON"]


@given(st.integers(min_value=0, max_value=40_000))
def test_the_offset_shifts_every_port_the_hidden_ones_too(offset: int) -> None:
    endpoints = Endpoints.from_environment({"PENSTOCK_MLFLOW_PORT": "5500"}, offset)
    expected = {**PUBLIC_PORTS, **HIDDEN_PORTS, "MLFLOW": 5500}
    assert endpoints.ports == {name: port + offset for name, port in expected.items()}


def test_a_mistyped_variable_is_refused_with_the_name_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"PENSTOCK_KAFAK_PORT.*PENSTOCK_KAFKA_PORT"):
        Endpoints.from_environment({"PENSTOCK_KAFAK_PORT": "9999"})


def test_settings_of_services_that_end_in_port_are_not_the_stacks() -> None:
    endpoints = Endpoints.from_environment({"PENSTOCK_INGEST_METRICS_PORT": "1"})
    assert endpoints.port("INGEST") == PUBLIC_PORTS["INGEST"]


@pytest.mark.parametrize("value", ["", "http", "-1", "0", "70000", "1.5"])
def test_a_value_that_is_no_port_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="KAFKA"):
        Endpoints.from_environment({"PENSTOCK_KAFKA_PORT": value})


def test_two_equal_ports_are_refused_with_both_names() -> None:
    with pytest.raises(ConfigError, match=r"GATEWAY.*KAFKA|KAFKA.*GATEWAY"):
        Endpoints.from_environment({"PENSTOCK_GATEWAY_PORT": "9092"})


def test_an_offset_beyond_the_last_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="--port-offset"):
        Endpoints.from_environment({}, 60_000)


def test_a_port_among_those_of_rays_workers_is_refused_with_both_names() -> None:
    with pytest.raises(ConfigError, match=r"RAY_WORKERS.*MLFLOW.*10399"):
        Endpoints.from_environment({"PENSTOCK_MLFLOW_PORT": "10399"})
