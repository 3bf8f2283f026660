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
    offline_objection,
    told,
)
from penstock_training_job.judge import Comparison
from penstock_training_job.request import now_ms
from penstock_training_job.rollout import Overtaken, Rollout, drained, ended
from penstock_training_job.workplace import Workplace

LOG = logging.getLogger("penstock.retrain_job")
_ROUTER_CHECK_S: Final = 1.0
"""Time in which a router has seen and applied a routing state: it follows the topic, and looks at
what it serves once a second."""
_MARGIN_S: Final = 3.0


def run(work: Workplace, make: MakeTrainer = make_trainer) -> RetrainEvent:
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
        work.log.refresh()
        finished = work.log.event("finished")
        if finished is None:
            work.log.check_wanted()
            finished = _retrain(work, make)
            work.fail_points.reach("after_finished")
    except RetryableError:
        raise
    except Exception:
        _withdraw(work)
        raise
    tidy(work)
    return finished


def _retrain(work: Workplace, make: MakeTrainer) -> RetrainEvent:
    request, tracker = work.log.request, work.tracker
    run_tags = {
        "git_commit": git_commit(work.pipeline.folder),
        "penstock.source": request.source,
        "penstock.causes": ",".join(request.cause_ids)[:5000],
    }
    run_id = tracker.run_of(work.request_id, run_tags)
    work.fail_points.reach("after_run")
    work.log.write("started", job_id=work.request_id, run_id=run_id)
    work.fail_points.reach("after_started")
    candidate = tracker.registered(run_id)
    if candidate is None:
        candidate = make_candidate(work, run_id, _champion(work), make)
    tags, metrics = tracker.notes(run_id)
    rollout = Rollout(work.request_id, candidate, tags[CHAMPION_TAG])
    verdict = Verdict.from_notes(tags, metrics)
    try:
        if verdict is None:
            verdict = _judge(work, rollout, run_id, metrics)
        work.fail_points.reach("after_verdict")
        _carry_out(work, rollout, verdict)
    except Overtaken as exc:
        # Somebody else's routing state is left as it is.
        verdict = Verdict(REJECTED, str(exc), told(tracker.notes(run_id)[1]))
        tracker.note(run_id, verdict.tags(), {})
    tracker.drop_alias(candidate.version, CHALLENGER)
    LOG.info("version %s is %s: %s", candidate.version, verdict.verdict, verdict.reason)
    work.fail_points.reach("before_finished")
    return work.log.write(
        "finished",
        job_id=work.request_id,
        run_id=run_id,
        model_version=candidate.version,
        verdict=verdict.verdict,
        reason=verdict.reason,
        metrics=dict(verdict.metrics),
    )


def _champion(work: Workplace) -> RegisteredModel:
    state = work.routed()
    if state is None or state.champion is None:
        raise ConfigError(f"pipeline {work.config.pipeline!r} has no champion to compare with")
    model = work.tracker.version(state.champion.version)
    if model.digest != state.champion.digest:
        raise ConfigError(
            f"MLflow {model.name}/{model.version}: digest is {model.digest}, "
            f"but {state.champion.digest} is routed: there is nothing to compare with"
        )
    return model


def _judge(work: Workplace, rollout: Rollout, run_id: str, metrics: dict[str, float]) -> Verdict:
    """Return the verdict, kept in the run before anything follows from it."""
    objection = offline_objection(_holdout(metrics), work.config.rollout.min_gain)
    if objection:
        verdict = Verdict(REJECTED, objection, told(metrics))
    else:
        found = run_canary(work, rollout, run_id)
        verdict = Verdict(found.verdict, found.reason, {**told(metrics), **found.metrics})
    work.tracker.note(run_id, verdict.tags(), verdict.metrics)
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


def _carry_out(work: Workplace, rollout: Rollout, verdict: Verdict) -> None:
    if verdict.verdict != PROMOTED:
        work.route(rollout.rejected)
        work.fail_points.reach("after_routing")
        return
    work.route(rollout.promoted)
    work.fail_points.reach("after_routing")
    work.tracker.set_alias(rollout.candidate.version, CHAMPION)


def _withdraw(work: Workplace) -> None:
    """Take back the canary of a job that fails; its failure is what counts and is told."""
    with suppress(PenstockError):
        state = work.routed()
        if state is not None and job_of(state) == work.request_id:
            work.route(lambda now: ended(_there(now), work.request_id))
    with suppress(PenstockError):
        started = work.log.event("started")
        if started is not None:
            work.tracker.fail(started.run_id)


def tidy(work: Workplace) -> None:
    """Retire what drains, and have the server unload what no router can have in flight any more.

    A router applies a routing state within its check interval, and what it sent before that is
    answered or given up within the model's time-out. One that is cut off from Kafka for longer
    finds the version gone, has it loaded again and loses nothing.
    """
    state = work.routed()
    if state is None or not any(v.state in ("draining", "retired") for v in state.versions):
        return
    grace_s = 2 * _ROUTER_CHECK_S + work.config.model.timeout_s + _MARGIN_S
    time.sleep(max(0.0, grace_s - (now_ms() - state.updated_at) / 1000))
    state = work.route(lambda now: drained(_there(now), work.request_id))
    for version in state.versions:
        if version.state == "retired":
            unload(work.places.triton_grpc, version.served_as)
            LOG.info("unloaded %s", version.served_as)


def _there(now: RoutingState | None) -> RoutingState:
    if now is None:
        raise Overtaken("there is no routing state any more")
    return now
