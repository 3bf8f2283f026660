"""The feature store of a pipeline at its first start: definitions and profiles."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from penstock_pipelines.loader import DEFINITIONS_FILE, LoadedPipeline

LOG = logging.getLogger("penstock.first_model")
_MARKER = "applied.sha256"


def prepare_features(pipeline: LoadedPipeline, repo_dir: Path) -> None:
    """Apply the Feast definitions, and fill in the profiles where the store is new.

    Does nothing where the same definitions have been applied before: a value that someone has
    changed since then stays.
    """
    if pipeline.config.feast is None:
        return
    definitions = (pipeline.folder / DEFINITIONS_FILE).read_bytes()
    digest = hashlib.sha256(definitions).hexdigest()
    marker = repo_dir / _MARKER
    applied = marker.read_text(encoding="utf-8") if marker.exists() else None
    if applied == digest:
        return
    from penstock_features.feast_repo import apply_definitions, load_profiles

    from penstock_training.training_set import profiles

    apply_definitions(pipeline.folder, repo_dir)
    frame = profiles(pipeline)
    if frame is not None and applied is None:
        for view in sorted({f.feast.split(":")[0] for f in pipeline.config.features if f.feast}):
            load_profiles(repo_dir, view, frame)
        LOG.info("loaded %d profiles", len(frame))
    marker.write_text(digest, encoding="utf-8")
