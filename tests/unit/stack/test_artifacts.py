"""Pinned artifacts: the lock, the digest check, and what happens to a damaged file."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from penstock_schemas.errors import ConfigError
from penstock_stack import artifacts
from penstock_stack.artifacts import ArtifactError, LockedArtifact, fetch, read_lock

CONTENT = b"the pinned bytes"
ENTRY = LockedArtifact("kafka", "org.example:thing:1.0::jar", hashlib.sha256(CONTENT).hexdigest())
WHERE = Path("maven/org/example/thing/1.0/thing-1.0.jar")


class Remote:
    """Stands for the repository: hands out what it is given, in order."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)

    def download(self, entry: LockedArtifact, cache: Path) -> None:
        path = cache / WHERE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.contents.pop(0))


def use(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    monkeypatch.setattr(artifacts, "_download", remote.download)


def test_the_shipped_lock_pins_kafka_with_a_log_binding_and_the_registry() -> None:
    names = {entry.coordinate: entry.group for entry in read_lock()}
    assert names["org.apache.kafka:kafka_2.13:4.2.2::jar"] == "kafka"
    assert names["org.apache.kafka:kafka-clients:4.2.2::jar"] == "kafka"
    assert names["io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz"] == "registry"
    assert any("log4j-slf4j-impl" in name for name in names)
    assert sum(group == "kafka" for group in names.values()) == 46


@pytest.mark.parametrize("line", ["kafka a:b:c", "kafka a:b:c::jar 12", "kafka a:b:c " + "0" * 64])
def test_a_damaged_lock_names_the_line(line: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        read_lock(f"# comment\n{line}\n")


def test_a_cached_file_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Remote(CONTENT))
    assert fetch(ENTRY, tmp_path) == fetch(ENTRY, tmp_path)


def test_a_tampered_cached_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Remote(CONTENT, CONTENT))
    fetch(ENTRY, tmp_path).write_bytes(b"tampered")
    assert fetch(ENTRY, tmp_path).read_bytes() == CONTENT


def test_a_download_cut_short_is_tried_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Remote(CONTENT[:3], CONTENT))
    assert fetch(ENTRY, tmp_path).read_bytes() == CONTENT


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, Remote(b"other", b"other"))
    with pytest.raises(ArtifactError, match=r"org\.example:thing.*SHA-256"):
        fetch(ENTRY, tmp_path)
    assert not (tmp_path / WHERE).exists()


def test_the_registry_is_unpacked_once_and_an_unfinished_folder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo("quarkus-run.jar")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"jar"))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    entry = LockedArtifact("registry", "org.example:thing:1.0::jar", digest)
    monkeypatch.setattr(artifacts, "read_lock", lambda: (entry,))
    use(monkeypatch, Remote(buffer.getvalue()))
    (tmp_path / f"registry-{digest[:16]}").mkdir()
    home = artifacts.registry_home(tmp_path)
    assert (home / "quarkus-run.jar").read_bytes() == b"jar"
    assert artifacts.registry_home(tmp_path) == home  # no second download: there is none left


def test_the_cache_can_be_moved(tmp_path: Path) -> None:
    assert artifacts.cache_dir({"PENSTOCK_CACHE_DIR": str(tmp_path)}) == tmp_path
