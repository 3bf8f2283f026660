from __future__ import annotations

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from penstock_monitoring.reference import REFERENCE_FILE, SAMPLE_FILE, SCORE, Reference
from penstock_training.run_artifacts import LABEL, SAMPLE_ROWS, plot_files, reference_files
from penstock_training.training_set import TrainingSet


def rows(n: int) -> TrainingSet:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(n, 2)).astype(np.float32)
    return TrainingSet(matrix, (matrix[:, 0] > 1).astype(np.float64), ("heat", "mode=slow"))


def test_reference_counts_every_row_and_the_sample_is_bounded_and_the_same_each_time() -> None:
    some = rows(SAMPLE_ROWS + 500)
    scores = np.linspace(0.0, 1.0, len(some))
    files = reference_files(some, scores)
    reference = Reference.from_json(files[REFERENCE_FILE])
    assert reference.rows == len(some)
    assert [h.name for h in reference.histograms] == ["heat", "mode=slow", SCORE]
    assert all(sum(h.counts) == len(some) for h in reference.histograms)
    sample = pq.read_table(io.BytesIO(files[SAMPLE_FILE]))
    assert sample.column_names == ["heat", "mode=slow", SCORE, LABEL]
    assert sample.num_rows == SAMPLE_ROWS
    chosen = np.searchsorted(scores, sample[SCORE].to_numpy())
    assert np.array_equal(sample["heat"].to_numpy(), some.matrix[chosen, 0])
    assert np.array_equal(sample[LABEL].to_numpy(), some.labels[chosen])
    assert reference_files(some, scores) == files


def test_sample_of_a_small_set_is_the_set() -> None:
    files = reference_files(rows(20), np.zeros(20))
    assert pq.read_table(io.BytesIO(files[SAMPLE_FILE])).num_rows == 20


@pytest.mark.filterwarnings("default")  # matplotlib may build its font cache
def test_plots_are_pictures() -> None:
    rng = np.random.default_rng(0)
    files = plot_files((rng.random(500) < 0.05).astype(np.float64), rng.random(500))
    assert set(files) == {"roc.png", "precision_recall.png", "calibration.png"}
    assert all(content.startswith(b"\x89PNG") for content in files.values())
