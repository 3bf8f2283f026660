"""Ray's own folder: short, tidied, its logs kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from penstock_stack import ray_head
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import HIDDEN_PORTS, Endpoints


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StackConfig:
    monkeypatch.setattr(ray_head, "ray_temp_dir", lambda _: tmp_path / "ray-temp")
    data_dir = tmp_path / "data"
    (data_dir / "logs").mkdir(parents=True)
    return StackConfig(data_dir, tmp_path / "cache", Endpoints.from_environment({}, 30_000))


def session(tmp_path: Path, text: str) -> None:
    logs = tmp_path / "ray-temp" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text(text)
    (tmp_path / "ray-temp" / "session_latest").symlink_to("session_1")


def test_the_folder_is_short_enough_for_sockets_and_one_per_stack() -> None:
    deep = Path("/home/somebody/with/a/very/long/path/to/a/project/.penstock")
    assert len(str(ray_head.ray_temp_dir(deep))) <= 45
    assert ray_head.ray_temp_dir(deep) != ray_head.ray_temp_dir(deep / "demo")


def test_every_port_of_ray_is_given_and_the_token_is_private(config: StackConfig) -> None:
    launch = ray_head.ray_head(config).prepare()  # type: ignore[misc]
    flags = dict(part.removeprefix("--").split("=") for part in launch.argv if "=" in part)
    ports = {int(value) for value in flags.values() if value.isdecimal()}
    for name in HIDDEN_PORTS:
        if name.startswith("RAY_"):
            assert config.endpoints.port(name) in ports, name
    assert (config.data_dir / "ray-token").stat().st_mode & 0o777 == 0o600
    assert "RAY_ADDRESS" not in launch.environment


def test_logs_of_a_stopped_session_are_kept_and_the_folder_is_gone(
    config: StackConfig, tmp_path: Path
) -> None:
    component = ray_head.ray_head(config)
    component.prepare()  # type: ignore[misc]
    session(tmp_path, "first")
    assert (config.logs / "ray" / "raylet.out").read_text() == "first"
    component.on_stopped()  # type: ignore[misc]
    assert (config.logs / "ray-last" / "raylet.out").read_text() == "first"
    assert not (tmp_path / "ray-temp").exists()
    assert not (config.logs / "ray").is_symlink()


def test_the_next_start_keeps_the_logs_of_a_session_that_nobody_stopped(
    config: StackConfig, tmp_path: Path
) -> None:
    component = ray_head.ray_head(config)
    component.prepare()  # type: ignore[misc]
    session(tmp_path, "killed")
    component.prepare()  # type: ignore[misc]
    assert (config.logs / "ray-last" / "raylet.out").read_text() == "killed"
