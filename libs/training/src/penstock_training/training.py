"""One training, from rows to a checked ONNX model, its reference and plots; nothing is stored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from penstock_monitoring.quality import auc, average_precision, log_loss
from penstock_monitoring.reference import (
    REFERENCE_FILE,
    SAMPLE_FILE,
    SCORE,
    make_reference,
)
from penstock_pipelines.loader import LoadedPipeline

from penstock_training.onnx_export import check_parity, to_onnx
from penstock_training.tracking import TrainingRecord
from penstock_training.trainers import Trainer, Vector, make_trainer
from penstock_training.training_set import TrainingSet, training_set


@dataclass(frozen=True, slots=True)
class Training:
    """A training and what it reached.

    Parameters
    ----------
    record
        What is logged of it, with the model fitted on all rows.
    holdout
        The later rows.
    holdout_scores
        Scores of the holdout by a model fitted on the earlier rows only, shape (n,); None where
        one of the two parts has labels of one class only.
    """

    record: TrainingRecord
    holdout: TrainingSet
    holdout_scores: Vector | None


def train(pipeline: LoadedPipeline) -> TrainingRecord:
    """Train the pipeline's first model on its bootstrap data.

    Raises
    ------
    ConfigError
        If the training data do not fit the pipeline.
    ParityError
        If the exported model differs from the trained one.
    """
    model = pipeline.config.model
    trainer = make_trainer(model.kind, model.bootstrap.seed)
    return train_on(training_set(pipeline), trainer).record


def train_on(rows: TrainingSet, trainer: Trainer) -> Training:
    """Measure a model on the last quarter of the rows in time, then fit one on all of them.

    Raises
    ------
    ConfigError
        If the labels are not of both classes.
    ParityError
        If the exported model differs from the trained one.
    """
    earlier, later = rows.split()
    scores: Vector | None = None
    if min(len(set(earlier.labels)), len(set(later.labels))) == 2:
        scores = trainer.fit(earlier.matrix, earlier.labels).scores(later.matrix)
    model = trainer.fit(rows.matrix, rows.labels)
    exported = to_onnx(model)
    metrics = {
        "rows": float(len(rows)),
        "base_rate": float(rows.labels.mean()),
        **({} if scores is None else _quality(later.labels, scores)),
        "parity_max_abs_diff": check_parity(model, exported.SerializeToString(), rows.matrix),
    }
    artifacts = reference_files(rows, model.scores(rows.matrix))
    record = TrainingRecord(model.params, metrics, rows.manifest(), exported, artifacts)
    return Training(record, later, scores)


def _quality(labels: Vector, scores: Vector) -> dict[str, float]:
    return {
        "auc": auc(labels, scores),
        "average_precision": average_precision(labels, scores),
        "log_loss": log_loss(labels, scores),
    }


SAMPLE_ROWS: Final = 5_000
"""Most rows of the sample."""
LABEL: Final = "label"
"""Column of the sample with the label."""
_SAMPLE_SEED: Final = 0
_DOTS_PER_INCH: Final = 80


def reference_files(rows: TrainingSet, scores: Vector) -> dict[str, bytes]:
    """Return the training reference: histograms of all rows, and a seeded sample of them.

    Parameters
    ----------
    scores
        The model's score of each row, shape (n,).
    """
    reference = make_reference(rows.names, rows.matrix, scores)
    rng = np.random.default_rng(_SAMPLE_SEED)
    chosen = np.sort(rng.permutation(len(rows))[:SAMPLE_ROWS])
    columns = dict(zip(rows.names, rows.matrix[chosen].T, strict=True))
    sample = pa.table({**columns, SCORE: scores[chosen], LABEL: rows.labels[chosen]})
    sink = io.BytesIO()
    pq.write_table(sample, sink)
    return {REFERENCE_FILE: reference.to_json().encode(), SAMPLE_FILE: sink.getvalue()}


def plot_files(labels: Vector, scores: Vector) -> dict[str, bytes]:
    """Return plots of the scores on rows that the model was not fitted on, as PNG files.

    Parameters
    ----------
    labels
        0 or 1, both present, shape (n,).
    scores
        Probability of 1, shape (n,).
    """
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_rate, true_rate, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    observed, predicted = calibration_curve(labels, scores, n_bins=10, strategy="quantile")
    highest = float(max(observed.max(), predicted.max()))
    return {
        "roc.png": _plot(false_rate, true_rate, ("false positives", "true positives"), 1.0),
        "precision_recall.png": _plot(recall, precision, ("recall", "precision"), None),
        "calibration.png": _plot(predicted, observed, ("mean score", "share of 1"), highest),
    }


def _plot(x: Vector, y: Vector, names: tuple[str, str], diagonal_to: float | None) -> bytes:
    """Draw a line, and the diagonal where one is meant."""
    # Not pyplot: it looks for a display and keeps what it draws.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), dpi=_DOTS_PER_INCH)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if diagonal_to is not None:
        axes.plot([0, diagonal_to], [0, diagonal_to], color="0.7", linestyle="--")
    axes.plot(x, y)
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    sink = io.BytesIO()
    canvas.print_png(sink)
    return sink.getvalue()
