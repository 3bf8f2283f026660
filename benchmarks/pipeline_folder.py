"""The pipeline folder of one run: its topics and features are the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import workloads
from contenders import Place
from penstock_rows import Variant
from profiles import definitions

PIPELINE: Final = """\
pipeline: {name}
partitions: {partitions}
topics: {topics}
event: {{key: entity_id}}
{rules}{feast}features:
{features}model: {{bootstrap: {{data: history.csv}}}}
batching: {{commit_interval_ms: {commit_ms}}}
"""


def write_folder(folder: Path, place: Place, variant: Variant) -> None:
    """Write a pipeline's folder: ``place.source`` holds events where there is an ingest."""
    folder.mkdir(parents=True)
    topics = {"predictions": place.output, "events" if variant.ingest else "features": place.source}
    if variant.ingest:
        features = workloads.event_features(workloads.PROFILE if variant.feast else ())
    else:
        features = "".join(f"  - {{name: f{i}, from: f{i}}}\n" for i in range(workloads.N_FEATURES))
    text = PIPELINE.format(
        name=place.tag,
        partitions=workloads.PARTITIONS,
        topics=json.dumps(topics),
        rules=workloads.EVENT_RULES if variant.ingest else "",
        feast="feast: {entity: entity_id}\n" if variant.feast else "",
        features=features,
        commit_ms=variant.commit_ms,
    )
    (folder / "pipeline.yaml").write_text(text, encoding="utf-8")
    (folder / "event.avsc").write_text(json.dumps(workloads.EVENT_SCHEMA), encoding="utf-8")
    if variant.feast:
        (folder / "features.py").write_text(definitions(variant.feast), encoding="utf-8")
    # Named because a pipeline needs one; the model here is made, not trained.
    (folder / "history.csv").write_text("label\n", encoding="utf-8")
