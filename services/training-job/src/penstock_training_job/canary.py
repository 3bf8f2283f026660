"""The canary: the candidate answers for a share of the keys until its labels tell how well."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pyarrow as pa
from penstock_schemas.errors import ConfigError
from penstock_schemas.records import RoutingState
from penstock_streaming.timing import Deadline
from penstock_training.deployment import deploy
from penstock_training.onnx_export import onnx_scores
from penstock_training.tracking import DATASET_FILE, RegisteredModel

from penstock_training_job.gates import (
    PROMOTED,
    REJECTED,
    Verdict,
    canary_metrics,
    canary_objection,
)
from penstock_training_job.job import TrainingJob
from penstock_training_job.judge import (
    MIN_POSITIVES,
    Comparison,
    compare,
    is_enough,
)
from penstock_training_job.request import now_ms
from penstock_training_job.rollout import Rollout
from penstock_training_job.rows import (
    LabelRows,
    PredictionFilter,
    features_of,
    kept_rows,
    labels_of,
    offsets_after,
    scores_of,
)

LOG = logging.getLogger("penstock.retrain_job")


def run_canary(job: TrainingJob, rollout: Rollout, run_id: str) -> Verdict:
    """Publish the candidate, give it its share of the keys, and judge it by what it answered.

    Raises
    ------
    Overtaken
        If somebody else changes the routing.
    Withdrawn
        If the request is cancelled meanwhile.
    """
    state = _start(job, rollout)
    began_ms = state.updated_at
    deadline = Deadline(job.config.rollout.max_wait_s - (now_ms() - began_ms) / 1000)
    least = job.config.rollout.min_canary_rows
    reader = _canary_rows(job, rollout, run_id)
    champion = job.tracker.version(rollout.champion)
    while True:
        reader.advance()
        rows = reader.joined(1 if deadline.expired else least)
        if rows is not None and is_enough(labels_of(rows), least):
            found = compare_canary(rows, champion, len(job.config.feature_names))
            LOG.info("judged after %.1f s: %s", (now_ms() - began_ms) / 1000, found)
            return verdict_of(found, job.config.rollout.min_gain)
        if deadline.expired:
            return _too_few(job, rows)
        job.fail_points.reach("in_canary")
        job.pause()
        rollout.running(job.routed())


def compare_canary(rows: pa.Table, champion: RegisteredModel, width: int) -> Comparison:
    """Compare what the candidate answered with what the champion answers to the same features."""
    own = onnx_scores(champion.onnx_bytes, features_of(rows, width))
    return compare(labels_of(rows), scores_of(rows), own)


def verdict_of(found: Comparison, min_gain: float) -> Verdict:
    """Return the verdict on a canary."""
    objection = canary_objection(found, min_gain)
    if objection:
        return Verdict(REJECTED, objection, canary_metrics(found))
    reason = (
        f"on the same {found.rows} canary rows its AUC is {found.candidate_auc:.4f}, "
        f"the champion's {found.champion_auc:.4f}"
    )
    return Verdict(PROMOTED, reason, canary_metrics(found))


def _too_few(job: TrainingJob, rows: pa.Table | None) -> Verdict:
    there = 0 if rows is None else rows.num_rows
    positives = 0 if rows is None else int(labels_of(rows).sum())
    limits = job.config.rollout
    reason = (
        f"{there} labelled canary rows, {positives} positive, within {limits.max_wait_s:g} s; "
        f"a verdict needs {limits.min_canary_rows}, {MIN_POSITIVES} of each class"
    )
    metrics = {"canary_rows": float(there), "canary_positives": float(positives)}
    return Verdict(REJECTED, reason, metrics)


def _start(job: TrainingJob, rollout: Rollout) -> RoutingState:
    """Have the candidate loaded and routed, unless it is; return the state since which it is."""
    now = job.routed()
    model = rollout.candidate
    if now is None or all(v.version != model.version for v in now.versions):
        began = time.monotonic()
        deploy(job.server, job.pipeline, job.tracker, model)
        LOG.info("published in %.1f s", time.monotonic() - began)
        job.fail_points.reach("after_publish")
    percent = job.config.rollout.canary_percent
    state = job.route(lambda now: rollout.canary(now, percent))
    LOG.info("canary since revision %d", state.revision)
    job.fail_points.reach("after_canary")
    return state


def _canary_rows(job: TrainingJob, rollout: Rollout, run_id: str) -> LabelRows:
    """Return the reader of the candidate's answers, which all lie behind the training set."""
    manifest: dict[str, Any] = json.loads(_file(job, run_id, DATASET_FILE))
    config = job.config
    wanted = PredictionFilter(
        len(config.feature_names), ("canary",), model_version=rollout.candidate.version
    )
    resolve = job.registry.schema_text
    limit = kept_rows(config)
    return LabelRows(job.kafka, resolve, config, wanted, offsets_after(manifest), limit=limit)


def _file(job: TrainingJob, run_id: str, name: str) -> bytes:
    content = job.tracker.file(run_id, name)
    if content is None:
        raise ConfigError(f"run {run_id} has no artifact {name}")
    return content
