"""Put a model version into the model server's repository.

A version's folder appears whole or not at all, and never changes afterwards: it is written aside,
synced to disk and renamed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from penstock_schemas.errors import ConfigError

from penstock_training.tracking import digest_of

TEMPLATE: Final = Path("triton_models/templates/config.pbtxt")
TEMPLATE_VARIABLE: Final = "PENSTOCK_TRITON_MODELS"
MODEL_FILE: Final = Path("1/model.onnx")
CONFIG_FILE: Final = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model version as the server is to have it.

    Parameters
    ----------
    served_as
        Name on the server, one per version.
    features
        Length of an input row.
    max_batch_rows
        Largest batch, rows.
    onnx_bytes
        The model file.
    """

    served_as: str
    features: int
    max_batch_rows: int
    onnx_bytes: bytes


def served_name(model: str, version: str) -> str:
    """Return the server's name of a version: one name per version, so that two live side by side.

    Examples
    --------
    >>> served_name("fraud", "7")
    'fraud__7'
    """
    return f"{model}__{version}"


def published_digest(models_dir: Path, served_as: str) -> str | None:
    """Return the digest of a published model file; None if it is not there."""
    try:
        return digest_of((models_dir / served_as / MODEL_FILE).read_bytes())
    except FileNotFoundError:
        return None


def publish(models_dir: Path, deployment: Deployment, template: str) -> Path:
    """Write a version's folder, atomically and durably; repeating it changes nothing.

    Parameters
    ----------
    template
        Text of the server's config with @NAME@, @FEATURES@ and @MAX_BATCH_SIZE@.

    Raises
    ------
    ConfigError
        If the version is there with another model: published versions are immutable.
    """
    target = models_dir / deployment.served_as
    there = published_digest(models_dir, deployment.served_as)
    if there is not None:
        if there != digest_of(deployment.onnx_bytes):
            raise ConfigError(
                f"{target}: already holds another model ({there}); "
                "a published version never changes: register a new one"
            )
        return target
    models_dir.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(models_dir, deployment.served_as)
    aside = Path(mkdtemp(prefix=_aside_prefix(deployment.served_as), dir=models_dir))
    try:
        aside.chmod(0o755)  # the server may run as another user
        (aside / MODEL_FILE.parent).mkdir()
        _write_synced(aside / MODEL_FILE, deployment.onnx_bytes)
        _write_synced(aside / CONFIG_FILE, _config(deployment, template).encode())
        for folder in (aside / MODEL_FILE.parent, aside):
            _sync_folder(folder)
        aside.rename(target)
        _sync_folder(models_dir)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def find_template(*near: Path) -> str:
    """Return the text of the tracked config template.

    Looked for in the folder named by ``PENSTOCK_TRITON_MODELS``, then beside each of ``near`` and
    its parents.

    Raises
    ------
    ConfigError
        If it is nowhere.
    """
    named = os.environ.get(TEMPLATE_VARIABLE)
    candidates: list[Path] = []
    if named:
        candidates = [Path(named) / TEMPLATE.relative_to("triton_models")]
    for start in near:
        folder = start.resolve()
        candidates += [f / TEMPLATE for f in (folder, *folder.parents)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    raise ConfigError(
        f"{TEMPLATE} not found: set {TEMPLATE_VARIABLE} to the folder triton_models of the project"
    )


def _config(deployment: Deployment, template: str) -> str:
    lines = [line for line in template.splitlines() if not line.startswith("#")]
    return (
        "\n".join(lines)
        .replace("@NAME@", deployment.served_as)
        .replace("@FEATURES@", str(deployment.features))
        .replace("@MAX_BATCH_SIZE@", str(deployment.max_batch_rows))
        + "\n"
    )


def _aside_prefix(served_as: str) -> str:
    return f".aside-{served_as}-"


def _remove_leftovers(models_dir: Path, served_as: str) -> None:
    """Remove what a killed writer of the same version left."""
    for leftover in models_dir.glob(f"{_aside_prefix(served_as)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
