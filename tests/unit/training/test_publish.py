from __future__ import annotations

import os
from pathlib import Path

import pytest
from penstock_schemas.errors import ConfigError
from penstock_training import publish as module
from penstock_training.publish import Deployment, find_template, publish, published_digest
from penstock_training.tracking import digest_of

TEMPLATE = find_template(Path(__file__))
MODEL = Deployment("fraud__1", 30, 1024, b"a model")


def test_version_is_published_whole(tmp_path: Path) -> None:
    target = publish(tmp_path / "models", MODEL, TEMPLATE)
    assert (target / "1" / "model.onnx").read_bytes() == b"a model"
    config = (target / "config.pbtxt").read_text()
    assert 'name: "fraud__1"' in config
    assert "dims: [ 30 ]" in config
    assert "max_batch_size: 1024" in config
    assert "@" not in config
    assert published_digest(tmp_path / "models", "fraud__1") == digest_of(b"a model")


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    target = publish(tmp_path, MODEL, TEMPLATE)
    inode = (target / "1" / "model.onnx").stat().st_ino
    publish(tmp_path, MODEL, TEMPLATE)
    assert (target / "1" / "model.onnx").stat().st_ino == inode


def test_published_version_is_immutable(tmp_path: Path) -> None:
    publish(tmp_path, MODEL, TEMPLATE)
    with pytest.raises(ConfigError, match="already holds another model"):
        publish(tmp_path, Deployment("fraud__1", 30, 1024, b"another"), TEMPLATE)
    assert published_digest(tmp_path, "fraud__1") == digest_of(b"a model")


@pytest.mark.parametrize("step", ["_write_synced", "_sync_folder"])
def test_failure_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, MODEL, TEMPLATE)
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_by_a_rename_of_synced_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert (tmp_path / "fraud__1").exists() == (synced[-1] == tmp_path.name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(tmp_path, MODEL, TEMPLATE)
    assert synced[:3] == ["model.onnx", "config.pbtxt", "1"]
    assert synced[-1] == tmp_path.name


def test_leftover_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".aside-fraud__1-killed"
    leftover.mkdir()
    other = tmp_path / ".aside-fraud__10-alive"
    other.mkdir()
    publish(tmp_path, MODEL, TEMPLATE)
    assert not leftover.exists()
    assert other.exists()


def test_digest_of_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert published_digest(tmp_path, "fraud__1") is None


def test_template_is_found_by_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_TRITON_MODELS"):
        find_template(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "config.pbtxt").write_text("x")
    monkeypatch.setenv("PENSTOCK_TRITON_MODELS", str(tmp_path))
    assert find_template(tmp_path) == "x"
