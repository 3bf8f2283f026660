"""Jars of the embedded stack: pinned, checked, cached.

``artifacts.lock`` lists every file with its SHA-256. jgo fetches what the cache lacks; a file
whose digest differs is thrown away, fetched once more, and then refused. A maintainer who changes
a version below renews the lock with ``python -m penstock_stack.artifacts``, which resolves the
pinned roots and writes every file's digest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from penstock_schemas.errors import ConfigError, FatalError

DOWNLOAD_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20


class ArtifactError(FatalError):
    """An artifact cannot be fetched, or its bytes are not the pinned ones."""


@dataclass(frozen=True, slots=True)
class LockedArtifact:
    """One pinned file.

    Parameters
    ----------
    group
        What it belongs to: kafka (class path) or registry (archive).
    coordinate
        ``groupId:artifactId:version:classifier:packaging``.
    sha256
        Hexadecimal digest of its bytes.
    """

    group: str
    coordinate: str
    sha256: str


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Return ``PENSTOCK_CACHE_DIR``, or ``~/.cache/penstock``."""
    configured = environment.get("PENSTOCK_CACHE_DIR")
    return Path(configured) if configured else Path.home() / ".cache" / "penstock"


def read_lock(text: str | None = None) -> tuple[LockedArtifact, ...]:
    """Parse the lock file shipped in this package, or ``text``.

    Raises
    ------
    ConfigError
        A line is not ``group coordinate sha256``.
    """
    if text is None:
        text = resources.files("penstock_stack").joinpath("artifacts.lock").read_text("utf-8")
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        if len(fields) != 3 or fields[1].count(":") != 4 or len(fields[2]) != 64:
            raise ConfigError(f"artifacts.lock line {number} is not 'group coordinate sha256'")
        entries.append(LockedArtifact(*fields))
    return tuple(entries)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def kafka_classpath(cache: Path) -> tuple[Path, ...]:
    """Return the verified jars of Kafka, fetching what is missing.

    Raises
    ------
    ArtifactError
        A jar cannot be fetched or has the wrong digest.
    """
    entries = [entry for entry in read_lock() if entry.group == "kafka"]
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="artifacts") as pool:
        return tuple(pool.map(lambda entry: fetch(entry, cache), entries))


def registry_home(cache: Path) -> Path:
    """Return the unpacked, verified registry: the folder of ``quarkus-run.jar``.

    The archive's digest is part of the folder's name and the folder appears by one rename, so an
    existing folder is a complete one.
    """
    (entry,) = (entry for entry in read_lock() if entry.group == "registry")
    home = cache / f"registry-{entry.sha256[:16]}"
    if (home / "quarkus-run.jar").is_file():
        return home
    archive = fetch(entry, cache)
    aside = cache / f"{home.name}.{os.getpid()}.aside"
    shutil.rmtree(aside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(aside, filter="data")
    shutil.rmtree(home, ignore_errors=True)
    aside.rename(home)
    archive.unlink()  # 158 MB that nothing reads again
    return home


def fetch(entry: LockedArtifact, cache: Path) -> Path:
    """Return the cached file of ``entry``, downloading it if it is absent or damaged."""
    path = cache / "maven" / _relative_path(entry.coordinate)
    if path.is_file() and sha256_of(path) == entry.sha256:
        return path
    for _ in range(2):
        path.unlink(missing_ok=True)
        _download(entry, cache)
        if path.is_file() and sha256_of(path) == entry.sha256:
            return path
    path.unlink(missing_ok=True)
    raise ArtifactError(
        f"{entry.coordinate} is not the file pinned in artifacts.lock (SHA-256 differs); "
        "check PENSTOCK_MAVEN_URL or the proxy in between"
    )


def _relative_path(coordinate: str) -> Path:
    group, artifact, version, classifier, packaging = coordinate.split(":")
    suffix = f"-{classifier}" if classifier else ""
    return Path(*group.split("."), artifact, version, f"{artifact}-{version}{suffix}.{packaging}")


def _download(entry: LockedArtifact, cache: Path) -> None:
    """Download one file into a folder of its own and rename it into the cache when complete."""
    from jgo.maven import MavenContext  # slow import, and needed only for a cold cache

    if bundle := os.environ.get("SSL_CERT_FILE"):
        os.environ.setdefault("REQUESTS_CA_BUNDLE", bundle)  # the name its HTTP client knows
    aside = cache / f"maven.{os.getpid()}.aside" / entry.sha256[:16]
    group, artifact, version, classifier, packaging = entry.coordinate.split(":")
    remote = os.environ.get("PENSTOCK_MAVEN_URL")
    context = MavenContext(
        repo_cache=aside,
        remote_repos={"configured": remote.rstrip("/")} if remote else None,
        timeout=DOWNLOAD_TIMEOUT_S,
    )
    component = context.project(group, artifact).at_version(version)
    try:
        found = Path(component.artifact(classifier, packaging).resolve())
    except Exception as exc:  # jgo raises requests' errors, RuntimeError and AssertionError
        raise ArtifactError(
            f"cannot download {entry.coordinate}: {exc}; check the network, the proxy settings "
            "or name a mirror in PENSTOCK_MAVEN_URL"
        ) from exc
    path = cache / "maven" / _relative_path(entry.coordinate)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.replace(path)
    shutil.rmtree(aside, ignore_errors=True)


KAFKA = ("org.apache.kafka", "kafka_2.13", "4.2.2")
LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5")
"""Kafka logs through SLF4J 1.7; without a binding its log is empty."""
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")


def main() -> None:
    """Write ``artifacts.lock`` beside this module."""
    from jgo.maven import Dependency, MavenContext, PythonResolver

    context = MavenContext(
        resolver=PythonResolver(), repo_cache=cache_dir(os.environ) / "maven", timeout=60
    )
    lines = []
    kafka, binding = (
        context.project(g, a).at_version(v).artifact() for g, a, v in (KAFKA, LOG_BINDING)
    )
    # Kafka alone is resolved: the binding's own parent would dictate other versions of Kafka.
    _, nodes = context.resolver.get_dependency_list([Dependency(kafka)])
    g, a, v = REGISTRY
    registry = context.project(g, a).at_version(v).artifact("all", "tar.gz")
    jars = {kafka, binding, *(node.dep.artifact for node in nodes)}
    for group, artifacts in (("kafka", jars), ("registry", {registry})):
        for artifact in artifacts:
            coordinate = ":".join(
                (artifact.groupId, artifact.artifactId, artifact.version, artifact.classifier)
            )
            digest = sha256_of(Path(artifact.resolve()))
            lines.append(f"{group} {coordinate}:{artifact.packaging} {digest}")
    header = "# group coordinate sha256; written by python -m penstock_stack.artifacts\n"
    target = Path(__file__).with_name("artifacts.lock")
    target.write_text(header + "\n".join(sorted(set(lines))) + "\n", "utf-8")
    sys.stderr.write(f"{len(set(lines))} artifacts in {target}\n")


if __name__ == "__main__":
    main()
