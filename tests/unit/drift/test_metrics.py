"""Figures per version."""

from __future__ import annotations

import numpy as np
from penstock_drift.metrics import ROWS, VERSIONS, DriftFamilies, VersionQuality
from penstock_monitoring.label_join import Pairs
from prometheus_client import CollectorRegistry


def pairs_of(scores: np.ndarray, labels: np.ndarray, version: str) -> Pairs:
    n = np.arange(len(scores))
    return Pairs(n, n, n, scores, labels, n * 0, [("m", version, "champion")])


def test_newest_labels_count() -> None:
    registry = CollectorRegistry()
    quality = VersionQuality(DriftFamilies(registry), "p")
    rng = np.random.default_rng(1)
    labels = (rng.random(ROWS + 5_000) < 0.3).astype(np.float64)
    scores = np.concatenate([1.0 - labels[:5_000], labels[5_000:]])
    for start in range(0, len(labels), 3_000):
        some = slice(start, start + 3_000)
        quality.add_pairs(pairs_of(scores[some], labels[some], "1"), np.zeros(len(labels[some])))
    quality.export()
    names = {"pipeline": "p", "model": "m", "version": "1"}
    assert registry.get_sample_value("penstock_drift_auc", names) == 1.0
    assert registry.get_sample_value("penstock_drift_auc_rows", names) == ROWS


def test_versions_are_bounded_and_gone_ones_are_not_shown() -> None:
    registry = CollectorRegistry()
    quality = VersionQuality(DriftFamilies(registry), "p")
    one = np.ones(1)
    for version in range(VERSIONS + 3):
        quality.add_pairs(pairs_of(one, one, str(version)), one)
        quality.export()
    shown = [
        sample.labels["version"]
        for family in registry.collect()
        if family.name == "penstock_drift_auc_rows"
        for sample in family.samples
    ]
    assert shown == [str(version) for version in range(3, VERSIONS + 3)]
