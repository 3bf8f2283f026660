"""One training, from pipeline to checked ONNX model; nothing is stored here."""

from __future__ import annotations

from penstock_pipelines.loader import LoadedPipeline

from penstock_training.onnx_export import check_parity, to_onnx
from penstock_training.tracking import TrainingRecord
from penstock_training.trainers import make_trainer
from penstock_training.training_set import TrainingSet, training_set


def train(pipeline: LoadedPipeline) -> TrainingRecord:
    """Train the pipeline's first model on its bootstrap data.

    The model is measured on the last quarter of the rows in time and then fitted on all of them.

    Raises
    ------
    ConfigError
        If the training data do not fit the pipeline.
    ParityError
        If the exported model differs from the trained one.
    """
    rows = training_set(pipeline)
    trainer = make_trainer(pipeline.config.model.kind, pipeline.config.model.bootstrap.seed)
    metrics = _measure(rows, pipeline)
    model = trainer.fit(rows.matrix, rows.labels)
    exported = to_onnx(model)
    metrics["parity_max_abs_diff"] = check_parity(model, exported.SerializeToString(), rows.matrix)
    return TrainingRecord(model.params, metrics, rows.manifest(), exported)


def _measure(rows: TrainingSet, pipeline: LoadedPipeline) -> dict[str, float]:
    """Return what a model fitted on the earlier rows reaches on the later ones."""
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    earlier, later = rows.split()
    trainer = make_trainer(pipeline.config.model.kind, pipeline.config.model.bootstrap.seed)
    metrics = {"rows": float(len(rows)), "base_rate": float(rows.labels.mean())}
    if min(len(set(earlier.labels)), len(set(later.labels))) < 2:
        return metrics  # too few rows to measure anything
    scores = trainer.fit(earlier.matrix, earlier.labels).scores(later.matrix)
    return {
        **metrics,
        "auc": float(roc_auc_score(later.labels, scores)),
        "average_precision": float(average_precision_score(later.labels, scores)),
        "log_loss": float(log_loss(later.labels, scores)),
    }
