"""Profile prod acts on the addresses of the settings, profile local on the embedded stack's."""

import pytest
from penstock_cli.addresses import addresses
from penstock_cli.options import Profile
from penstock_schemas.errors import ConfigError
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints


@pytest.fixture
def config(tmp_path):
    return StackConfig(tmp_path, tmp_path, Endpoints.from_environment({}, 100))


def test_local_is_the_embedded_stack(monkeypatch, config):
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:9092")
    found = addresses(Profile.local, config)
    assert found.kafka.bootstrap_servers == "127.0.0.1:9192"
    assert found.registry.url == "http://127.0.0.1:8181/apis/ccompat/v7"


def test_prod_is_what_the_settings_say(monkeypatch, config):
    monkeypatch.setenv("PENSTOCK_PROFILE", "prod")  # others' names under the prefix do no harm
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVERS", "kafka:19092")
    monkeypatch.setenv("PENSTOCK_REGISTRY__URL", "http://registry:8080/apis/ccompat/v7")
    found = addresses(Profile.prod, config)
    assert found.kafka.bootstrap_servers == "kafka:19092"
    assert found.registry.url == "http://registry:8080/apis/ccompat/v7"


def test_prod_without_an_address_does_not_act_on_this_machine(config):
    with pytest.raises(ConfigError, match=r"PENSTOCK_KAFKA.*PENSTOCK_REGISTRY"):
        addresses(Profile.prod, config)


def test_prod_names_a_mistyped_setting(monkeypatch, config):
    monkeypatch.setenv("PENSTOCK_KAFKA__BOOTSTRAP_SERVER", "kafka:19092")
    monkeypatch.setenv("PENSTOCK_REGISTRY__URL", "http://registry:8080")
    with pytest.raises(ConfigError, match="PENSTOCK_KAFKA__BOOTSTRAP_SERVER"):
        addresses(Profile.prod, config)
