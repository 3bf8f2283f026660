"""The order of a job's steps. Every step may be repeated, so the job may be killed anywhere.

What has been done is found again by the request: its events in the retrain topic, the run with its
tag, the version of that run, the routing state, and the verdict among the run's tags.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Final

from penstock_routing.states import job_of
from penstock_schemas.errors import ConfigError, PenstockError, RetryableError
from penstock_schemas.records import RetrainEvent, RoutingState
from penstock_training.deployment import unload
from penstock_training.tracking import CHALLENGER, CHAMPION, RegisteredModel, git_commit
from penstock_training.trainers import make_trainer

from penstock_training_job.canary import run_canary
from penstock_training_job.candidate import MakeTrainer, make_candidate
from penstock_training_job.gates import (
    CHAMPION_TAG,
    PROMOTED,
    REJECTED,
    Verdict,
    event_metrics,
    offline_objection,
)
from penstock_training_job.job import TrainingJob
from penstock_training_job.judge import Comparison
from penstock_training_job.request import now_ms
from penstock_training_job.rollout import Overtaken, Rollout, drained, ended

LOG = logging.getLogger("penstock.retrain_job")
_ROUTER_CHECK_S: Final = 1.0
"""Time in which a router has seen and applied a routing state: it follows the topic, and looks at
what it serves once a second."""
_MARGIN_S: Final = 3.0


def run(job: TrainingJob, make: MakeTrainer = make_trainer) -> RetrainEvent:
    """Carry a request out and return its event ``finished``.

    Parameters
    ----------
    make
        Makes a trainer from kind and seed.

    Raises
    ------
    Withdrawn
        If the request is cancelled, or was decided otherwise.
    NotEnoughLabels
        If the training set does not come together in time.
    RetryableError
        If something does not answer; call again.
    """
    try:
        job.log.refresh()
        finished = job.log.event("finished")
        if finished is None:
            job.log.check_wanted()
            finished = _retrain(job, make)
            job.fail_points.reach("after_finished")
    except RetryableError:
        raise
    except Exception:
        _withdraw(job)
        raise
    unload_retired(job)
    return finished


def _retrain(job: TrainingJob, make: MakeTrainer) -> RetrainEvent:
    request, tracker = job.log.request, job.tracker
    run_tags = {
        "git_commit": git_commit(job.pipeline.folder),
        "penstock.source": request.source,
        "penstock.causes": ",".join(request.cause_ids)[:5000],
    }
    run_id = tracker.run_of(job.request_id, run_tags)
    job.fail_points.reach("after_run")
    job.log.write("started", job_id=job.request_id, run_id=run_id)
    job.fail_points.reach("after_started")
    candidate = tracker.registered(run_id)
    if candidate is None:
        candidate = make_candidate(job, run_id, _champion(job), make)
    tags, metrics = tracker.notes(run_id)
    rollout = Rollout(job.request_id, candidate, tags[CHAMPION_TAG])
    verdict = Verdict.from_notes(tags, metrics)
    try:
        if verdict is None:
            verdict = _judge(job, rollout, run_id, metrics)
        job.fail_points.reach("after_verdict")
        _carry_out(job, rollout, verdict)
    except Overtaken as exc:
        # Somebody else's routing state is left as it is.
        verdict = Verdict(REJECTED, str(exc), event_metrics(tracker.notes(run_id)[1]))
        tracker.note(run_id, verdict.tags(), {})
    tracker.drop_alias(candidate.version, CHALLENGER)
    LOG.info("version %s is %s: %s", candidate.version, verdict.verdict, verdict.reason)
    job.fail_points.reach("before_finished")
    return job.log.write(
        "finished",
        job_id=job.request_id,
        run_id=run_id,
        model_version=candidate.version,
        verdict=verdict.verdict,
        reason=verdict.reason,
        metrics=dict(verdict.metrics),
    )


def _champion(job: TrainingJob) -> RegisteredModel:
    state = job.routed()
    if state is None or state.champion is None:
        raise ConfigError(f"pipeline {job.config.pipeline!r} has no champion to compare with")
    model = job.tracker.version(state.champion.version)
    if model.digest != state.champion.digest:
        raise ConfigError(
            f"MLflow {model.name}/{model.version}: digest is {model.digest}, "
            f"but {state.champion.digest} is routed: there is nothing to compare with"
        )
    return model


def _judge(job: TrainingJob, rollout: Rollout, run_id: str, metrics: dict[str, float]) -> Verdict:
    """Return the verdict, kept in the run before anything follows from it."""
    objection = offline_objection(_holdout(metrics), job.config.rollout.min_gain)
    if objection:
        verdict = Verdict(REJECTED, objection, event_metrics(metrics))
    else:
        found = run_canary(job, rollout, run_id)
        verdict = Verdict(found.verdict, found.reason, {**event_metrics(metrics), **found.metrics})
    job.tracker.note(run_id, verdict.tags(), verdict.metrics)
    return verdict


def _holdout(metrics: dict[str, float]) -> Comparison:
    return Comparison(
        rows=int(metrics["holdout_rows"]),
        positives=int(metrics["holdout_positives"]),
        candidate_auc=metrics["holdout_auc"],
        champion_auc=metrics["champion_holdout_auc"],
        gain_low=metrics["gain_low"],
        gain_high=metrics["gain_high"],
    )


def _carry_out(job: TrainingJob, rollout: Rollout, verdict: Verdict) -> None:
    if verdict.verdict != PROMOTED:
        job.route(rollout.rejected)
        job.fail_points.reach("after_routing")
        return
    job.route(rollout.promoted)
    job.fail_points.reach("after_routing")
    job.tracker.set_alias(rollout.candidate.version, CHAMPION)


def _withdraw(job: TrainingJob) -> None:
    """Take back the canary of a job that fails; the event carries its failure, not this one."""
    with suppress(PenstockError):
        state = job.routed()
        if state is not None and job_of(state) == job.request_id:
            job.route(lambda now: ended(_in_force(now), job.request_id))
    with suppress(PenstockError):
        started = job.log.event("started")
        if started is not None:
            job.tracker.fail(started.run_id)


def unload_retired(job: TrainingJob) -> None:
    """Retire what drains, and have the server unload what no router can have in flight any more.

    A router applies a routing state within its check interval, and what it sent before that is
    answered or given up within the model's time-out. One that is cut off from Kafka for longer
    finds the version gone, has it loaded again and loses nothing.
    """
    state = job.routed()
    if state is None or not any(v.state in ("draining", "retired") for v in state.versions):
        return
    grace_s = 2 * _ROUTER_CHECK_S + job.config.model.timeout_s + _MARGIN_S
    time.sleep(max(0.0, grace_s - (now_ms() - state.updated_at) / 1000))
    state = job.route(lambda now: drained(_in_force(now), job.request_id))
    for version in state.versions:
        if version.state == "retired":
            unload(job.addresses.triton_grpc, version.served_as)
            LOG.info("unloaded %s", version.served_as)


def _in_force(now: RoutingState | None) -> RoutingState:
    if now is None:
        raise Overtaken("there is no routing state any more")
    return now
