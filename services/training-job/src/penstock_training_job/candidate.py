"""From the request to a registered candidate: rows, training, comparison with the champion."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from penstock_schemas.errors import PenstockError
from penstock_streaming.timing import Deadline
from penstock_training.onnx_export import onnx_scores
from penstock_training.tracking import CHALLENGER, DATASET_FILE, RegisteredModel, TrainingRecord
from penstock_training.trainers import Trainer
from penstock_training.training import Training, plot_files, train_on
from penstock_training.training_set import TrainingSet

from penstock_training_job.gates import CHAMPION_TAG, holdout_metrics
from penstock_training_job.job import TrainingJob
from penstock_training_job.judge import MIN_POSITIVES, compare, is_enough
from penstock_training_job.request import now_ms
from penstock_training_job.rows import (
    LabelRows,
    kept_rows,
    make_training_set,
    rebuild_training_set,
    training_rows,
)

LOG = logging.getLogger("penstock.retrain_job")
MakeTrainer = Callable[[str, int], Trainer]


class NotEnoughLabels(PenstockError):
    """The labels that a training needs have not come in time."""


def make_candidate(
    job: TrainingJob, run_id: str, champion: RegisteredModel, make_trainer: MakeTrainer
) -> RegisteredModel:
    """Train, measure against the champion on the same held-out rows, log and register.

    Raises
    ------
    NotEnoughLabels
        If the training set does not come together in time.
    Withdrawn
        If the request is cancelled meanwhile.
    """
    rows = collect(job, run_id)
    job.fail_points.reach("after_rows")
    model = job.config.model
    began = time.monotonic()
    training = train_on(rows, make_trainer(model.kind, model.bootstrap.seed))
    record = with_comparison(training, champion, len(rows))
    LOG.info(
        "trained on %d rows in %.1f s: AUC %.4f, the champion's %.4f",
        len(rows),
        time.monotonic() - began,
        record.metrics["holdout_auc"],
        record.metrics["champion_holdout_auc"],
    )
    job.fail_points.reach("before_log")
    began = time.monotonic()
    job.tracker.note(run_id, {CHAMPION_TAG: champion.version}, {})
    job.tracker.log_training(run_id, record)
    job.fail_points.reach("after_log")
    job.fail_points.during("mid_upload")
    registered = job.tracker.register(run_id, record, CHALLENGER)
    LOG.info("registered version %s in %.1f s", registered.version, time.monotonic() - began)
    job.fail_points.reach("after_register")
    return registered


def with_comparison(training: Training, champion: RegisteredModel, rows: int) -> TrainingRecord:
    """Return a training's record with plots and the comparison on the holdout."""
    holdout, scores = training.holdout, training.holdout_scores
    if scores is None:
        raise NotEnoughLabels("the held-out rows have labels of one class only")
    found = compare(holdout.labels, scores, onnx_scores(champion.onnx_bytes, holdout.matrix))
    record = training.record
    return replace(
        record,
        metrics={**record.metrics, **holdout_metrics(found, rows)},
        artifacts={**record.artifacts, **plot_files(holdout.labels, scores)},
    )


def collect(job: TrainingJob, run_id: str) -> TrainingSet:
    """Return the run's training set: made again if there was one, else of the newest rows.

    The manifest is kept before anything is trained, so that a job that is killed and started again
    trains on the same rows.
    """
    began = time.monotonic()
    kept = job.tracker.file(run_id, DATASET_FILE)
    if kept is not None:
        rows = rebuild_training_set(
            json.loads(kept), job.kafka, job.registry.schema_text, job.config
        )
    else:
        rows = _await_rows(job)
        manifest = json.dumps(rows.manifest(), indent=1).encode()
        job.tracker.log_file(run_id, DATASET_FILE, manifest)
    LOG.info(
        "%s %d rows, %d positive, in %.1f s",
        "collected" if kept is None else "collected again",
        len(rows),
        int(rows.labels.sum()),
        time.monotonic() - began,
    )
    return rows


def _await_rows(job: TrainingJob) -> TrainingSet:
    config, since_ms = job.config, job.log.request.data_since
    started = job.log.event("started")
    waited_s = 0.0 if started is None else (now_ms() - started.at) / 1000
    deadline = Deadline(config.retrain.label_wait_s - waited_s)
    source: dict[str, Any] = {"data_since": since_ms, "max_labels": config.retrain.max_labels}
    wanted = training_rows(config, since_ms)
    resolve = job.registry.schema_text
    reader = LabelRows(job.kafka, resolve, config, wanted, limit=kept_rows(config))
    while True:
        reader.advance()
        found = reader.joined(1 if deadline.expired else config.retrain.min_labels)
        if found is not None:
            made = make_training_set(found, config, {**source, "ranges": reader.ranges()})
            if _is_usable(made, config.retrain.min_labels):
                return made
        if deadline.expired:
            there = 0 if found is None else found.num_rows
            raise NotEnoughLabels(
                f"{there} labelled rows within {config.retrain.label_wait_s:g} s; a training "
                f"needs {config.retrain.min_labels}, {MIN_POSITIVES} of each class"
            )
        job.pause()


def _is_usable(rows: TrainingSet, min_rows: int) -> bool:
    parts = (part.labels for part in rows.split())
    return is_enough(rows.labels, min_rows) and all(0.0 < p.mean() < 1.0 for p in parts)
