"""One window against the training reference, as Evidently shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from penstock_drift.evidence import LABEL

THRESHOLD: Final = 0.1
"""Wasserstein distance, in standard deviations of the reference, and Jensen-Shannon distance."""
FEW_VALUES: Final = 2
"""A column of so few distinct values in the reference is a category."""


def make_report(current: pd.DataFrame, reference: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """Compare the columns that both have.

    Returns
    -------
    The report as plain values, and as an HTML page that needs no other file.
    """
    # Before its import: without it, it tells its makers over the network that it is used.
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    shared = [name for name in current.columns if name in reference.columns]
    categories = [n for n in shared if n == LABEL or reference[n].nunique() <= FEW_VALUES]
    definition = DataDefinition(
        numerical_columns=[n for n in shared if n not in categories],
        categorical_columns=categories,
    )
    preset = DataDriftPreset(
        num_method="wasserstein",
        num_threshold=THRESHOLD,
        cat_method="jensenshannon",
        cat_threshold=THRESHOLD,
    )
    snapshot = Report([preset]).run(
        Dataset.from_pandas(_plain(current[shared]), definition),
        Dataset.from_pandas(_plain(reference[shared]), definition),
    )
    return json.loads(snapshot.json()), snapshot.get_html_str(as_iframe=False)


def drifted_columns(report: dict[str, Any]) -> list[str]:
    """Return the columns over their threshold, the furthest first."""
    distances = {
        str(metric["config"]["column"]): float(metric["value"])
        for metric in report["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }
    over = [name for name, value in distances.items() if value >= THRESHOLD]
    return sorted(over, key=lambda name: -distances[name])


def write(folder: Path, name: str, document: dict[str, Any], page: str) -> None:
    """Write both files so that each is whole or not there; the JSON comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".html", page), (".json", json.dumps(document, indent=1))):
        temporary = folder / f".{name}{suffix}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / f"{name}{suffix}")


def document(
    episode_id: str, event_ids: Sequence[str], rows: int, report: dict[str, Any]
) -> dict[str, Any]:
    """Return the JSON document of a report."""
    return {
        "episode_id": episode_id,
        "event_ids": list(event_ids),
        "rows": rows,
        "drifted": drifted_columns(report),
        "evidently": report,
    }


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index(drop=True).astype("float64")
