"""One training, from rows to checked ONNX model; nothing is stored here."""

from __future__ import annotations

from dataclasses import dataclass

from penstock_pipelines.loader import LoadedPipeline

from penstock_training.onnx_export import check_parity, to_onnx
from penstock_training.run_artifacts import reference_files
from penstock_training.trainers import Trainer, Vector, make_trainer
from penstock_training.training_record import TrainingRecord
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
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    return {
        "auc": float(roc_auc_score(labels, scores)),
        "average_precision": float(average_precision_score(labels, scores)),
        "log_loss": float(log_loss(labels, scores)),
    }
