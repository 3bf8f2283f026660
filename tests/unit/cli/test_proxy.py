"""What stays on the machine never goes through a proxy."""

import os

import pytest
from penstock_cli.main import reach_loopback_directly


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (None, "127.0.0.1,localhost"),
        ("", "127.0.0.1,localhost"),
        ("example.org,localhost", "example.org,localhost,127.0.0.1"),
    ],
)
def test_loopback_is_added_to_what_bypasses_the_proxy(monkeypatch, configured, expected):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if configured is not None:
            monkeypatch.setenv(name, configured)
    reach_loopback_directly()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected
