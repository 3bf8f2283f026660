"""The bootstrap of uv: from the lock, through the configured index, never with other bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
NAME = "uv-9.9.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"


def wheel(program: bytes = b"#!/bin/sh\necho uv 9.9.9\n") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"uv": program, "uvx": b""}.items():
            # By its name alone the entry would be dated now, and two wheels differ.
            archive.writestr(zipfile.ZipInfo(f"uv-9.9.9.data/scripts/{name}"), content)
    return buffer.getvalue()


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module whose root is an empty project that pins the wheel above."""
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "TOOLS", tmp_path / ".tools")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nrequired-version = ">=0.9"\n')
    digest = hashlib.sha256(wheel()).hexdigest()
    (tmp_path / "uv.lock").write_text(
        '[[package]]\nname = "uv"\nwheels = [\n'
        '  { url = "https://files.example/uv-9.9.9-py3-none-win_amd64.whl", hash = "sha256:0" },\n'
        f'  {{ url = "https://files.example/{NAME}", hash = "sha256:{digest}" }},\n]\n'
    )
    return module


def serve(module: ModuleType, monkeypatch: pytest.MonkeyPatch, pages: dict[str, bytes]) -> None:
    monkeypatch.setattr(module, "download", pages.__getitem__)


def test_the_wheel_of_the_lock_is_unpacked_and_runs(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(bootstrap, monkeypatch, {f"https://files.example/{NAME}": wheel()})
    target = bootstrap.ensure_uv()
    assert bootstrap.version_of(target) == (9, 9, 9)
    serve(bootstrap, monkeypatch, {})  # the second call downloads nothing
    assert bootstrap.ensure_uv() == target


def test_other_bytes_than_the_locked_ones_are_refused(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve(bootstrap, monkeypatch, {f"https://files.example/{NAME}": wheel(b"tampered")})
    with pytest.raises(bootstrap.BootstrapError, match=r"uv\.lock says"):
        bootstrap.ensure_uv()
    assert not (tmp_path / ".tools" / "uv").exists()


@pytest.mark.parametrize("variable", ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"])
def test_a_configured_index_is_used_instead(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "https://mirror.example/simple/")
    link = f"../../files/{NAME.replace('_', '%5F')}#sha256=1"
    page = f'<a href="../../files/other.whl">x</a><a href="{link}">uv</a>'
    pages = {
        "https://mirror.example/simple/uv/": page.encode(),
        f"https://mirror.example/files/{NAME.replace('_', '%5F')}": wheel(),
    }
    serve(bootstrap, monkeypatch, pages)
    assert bootstrap.version_of(bootstrap.ensure_uv()) == (9, 9, 9)


def test_pips_configuration_names_the_index_too(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://corp.example/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert bootstrap.configured_index() == "https://corp.example/simple"


def test_an_index_without_the_file_is_named_without_its_password(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "corp=https://me:secret@mirror.example/simple")
    serve(bootstrap, monkeypatch, {"https://me:secret@mirror.example/simple/uv/": b""})
    with pytest.raises(bootstrap.BootstrapError, match=r"mirror\.example") as failed:
        bootstrap.ensure_uv()
    assert "secret" not in str(failed.value)


def test_an_uv_on_path_is_used_if_it_is_new_enough(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version, accepted in (("0.8.9", False), ("0.10.0", True)):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "uv").write_text(f"#!/bin/sh\necho 'uv {version} (build)'\n")
        (folder / "uv").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        serve(bootstrap, monkeypatch, {f"https://files.example/{NAME}": wheel()})
        target = bootstrap.ensure_uv()
        assert target.is_symlink() is accepted
        target.unlink()


def test_a_lock_without_the_wheel_says_what_to_do(bootstrap: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "uv"\nwheels = []\n')
    with pytest.raises(bootstrap.BootstrapError, match="uv lock"):
        bootstrap.locked_wheel()


def test_the_real_lock_pins_a_wheel_that_satisfies_the_required_version(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", ROOT)
    entry = bootstrap.locked_wheel()
    assert "manylinux" in entry["url"]
    assert entry["hash"].startswith("sha256:")
    version = tuple(map(int, entry["url"].rpartition("/")[2].split("-")[1].split(".")))
    assert version >= bootstrap.required_version()
