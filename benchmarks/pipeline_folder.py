"""The pipeline folder of one run: its topics and features are the benchmark's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import workloads
from contenders import Place

PIPELINE: Final = """\
pipeline: {name}
partitions: {partitions}
topics: {topics}
event: {{key: entity_id}}
{rules}features:
{features}model: {{bootstrap: {{data: history.csv}}}}
batching: {{commit_interval_ms: {commit_ms}}}
"""


def write_folder(folder: Path, place: Place, *, has_ingest: bool, commit_ms: int) -> None:
    """Write a pipeline's folder.

    Parameters
    ----------
    has_ingest
        Whether ``place.source`` holds events; else it holds feature vectors.
    commit_ms
        Time between transactions, milliseconds.
    """
    folder.mkdir(parents=True)
    topics = {"predictions": place.output, "events" if has_ingest else "features": place.source}
    plain = "".join(f"  - {{name: f{i}, from: f{i}}}\n" for i in range(workloads.N_FEATURES))
    text = PIPELINE.format(
        name=place.tag,
        partitions=workloads.PARTITIONS,
        topics=json.dumps(topics),
        rules=workloads.EVENT_RULES if has_ingest else "",
        features=workloads.EVENT_FEATURES if has_ingest else plain,
        commit_ms=commit_ms,
    )
    (folder / "pipeline.yaml").write_text(text, encoding="utf-8")
    (folder / "event.avsc").write_text(json.dumps(workloads.EVENT_SCHEMA), encoding="utf-8")
    # Named because a pipeline needs one; the model here is made, not trained.
    (folder / "history.csv").write_text("label\n", encoding="utf-8")
