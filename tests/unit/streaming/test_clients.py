"""Loops of a process share its admin client; a loop may be given other clients by a setting."""

from __future__ import annotations

import gc
import os
import weakref

import pytest
from harness.loop import Stateless
from penstock_streaming.clients import ConfluentClients, wrapped
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.testing import FakeBroker, FakeClients

CONFIG = KafkaSettings(bootstrap_servers="127.0.0.1:1").as_librdkafka()


def test_one_admin_client_per_process_and_configuration_while_a_loop_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ConfluentClients().topics(dict(CONFIG))
    assert ConfluentClients().topics(dict(CONFIG)) is first
    assert ConfluentClients().topics({**CONFIG, "client.id": "other"}) is not first
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        assert ConfluentClients().topics(dict(CONFIG)) is not first
    left = weakref.ref(first)
    del first
    gc.collect()
    assert left() is None, "its threads outlive the loops"


def test_a_loop_has_the_clients_and_the_handler_it_was_given_unless_a_setting_wraps_them() -> None:
    clients, handler = FakeClients(FakeBroker()), Stateless()
    assert wrapped("", clients, handler) == (clients, handler)  # type: ignore[arg-type]
    name = f"{__name__}:swapped=x=y"
    assert wrapped(name, clients, handler) == ("x=y", clients)  # type: ignore[arg-type]


def swapped(argument: str, clients: object, handler: object) -> tuple[object, object]:
    return argument, clients
