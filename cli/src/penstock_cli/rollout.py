"""How ``penstock model`` changes what is served: look, check, show; with ``--yes`` also do it.

What was shown is what is written: a state that somebody else has changed meanwhile is refused.
The routing state knows what has served, MLflow what was trained, the model server's folder what
would be loaded: only where all that are asked agree may a version answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from penstock_routing.rollout import Versions, previous
from penstock_routing.states import find, following, job_of, writer_of
from penstock_schemas.errors import ConfigError, PenstockError, Refused, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_schemas.retrain_requests import ENDS_OR_SUPPRESSED, Request, requests_of
from penstock_training.deployment import ModelServer, deploy, load, routed
from penstock_training.publish import published_digest
from penstock_training.tracking import CHAMPION, Tracker

from penstock_cli import console
from penstock_cli.addresses import addresses
from penstock_cli.cluster import actor, operation, refusals
from penstock_cli.lifecycle_log import now_ms
from penstock_cli.options import OutputFormat, Profile, global_options

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

    from penstock_cli.lifecycle_log import LifecycleLog

Move = Callable[[RoutingState, ModelVersion], Versions]


@dataclass(frozen=True, slots=True)
class Change:
    """What was asked for.

    Parameters
    ----------
    action
        ``model.promote`` or the like, as the audit has it.
    version
        Number of the version; None means the previous champion.
    move
        From state and version to the next versions.
    arguments
        As given, for the audit.
    revision
        Only from this one; None means whichever is in force.
    """

    action: str
    version: str | None
    move: Move
    arguments: Mapping[str, object]
    revision: int | None = None


def change(
    context: typer.Context, log: LifecycleLog, versions: ModelVersions, wanted: Change, *, yes: bool
) -> None:
    """Do it with ``--yes``, else show what would be done; a refusal is exit code 4."""
    with refusals():
        before = _in_force(log, wanted)
        candidate = _candidate(versions, before, wanted.version)
        found = wanted.move(before, candidate)
        mine = next((v for v in found if v.version == candidate.version), candidate)
        if mine.state != "retired":
            versions.check(mine)
        after = before
        if found != before.versions:
            after = following(before, found, f"cli:{actor()}", now_ms())
        if yes and after is not before:
            _carry_out(log, versions, wanted, (before, after, mine))
    _show(context, before, after, done=yes)


def _in_force(log: LifecycleLog, wanted: Change) -> RoutingState:
    state = log.routing()
    if state is None:
        name = log.topics.pipeline
        raise ConfigError(f"pipeline {name!r} has no model yet; 'penstock up' makes one")
    if wanted.revision not in (None, state.revision):
        raise Refused(
            f"--revision {wanted.revision} is not in force: it is {writer_of(state)}; look with "
            f"'penstock model ls {state.pipeline}' and ask again"
        )
    refuse_owned(state, requests_of(log.retrain_events(), ENDS_OR_SUPPRESSED))
    return state


def refuse_owned(now: RoutingState, requests: list[Request]) -> None:
    """Refuse while a retraining has its canary out: it decides what becomes of it.

    Raises
    ------
    Refused
        Names the request and how to take the rollout from it.
    """
    owner = job_of(now)
    if owner is None or not any(v.state == "canary" for v in now.versions):
        return
    if any(r.request_id == owner and r.is_open for r in requests):
        raise Refused(
            f"retraining {owner} has its canary out since revision {now.revision} and decides on "
            f"it; to take over, first 'penstock retrain cancel {now.pipeline} {owner} --yes'"
        )


def _candidate(versions: ModelVersions, state: RoutingState, version: str | None) -> ModelVersion:
    if version is None:
        return previous(state)
    return versions.named(state, version)


def _carry_out(
    log: LifecycleLog,
    versions: ModelVersions,
    wanted: Change,
    states: tuple[RoutingState, RoutingState, ModelVersion],
) -> None:
    before, after, mine = states
    doing = operation(wanted.action, before.pipeline, wanted.arguments)
    log.audit.ensure()
    log.audit.write(doing.event("begin"))
    try:
        if mine.state != "retired":
            versions.make_ready(mine)
        log.route(lambda now: _from(now, before, after))
    except Exception as exc:
        log.audit.write(doing.event("end", outcome="failed", reason=str(exc)))
        raise
    log.audit.write(doing.event("end", outcome="succeeded", counts={"revision": after.revision}))
    if after.champion is not None and after.champion.version != _champion_of(before):
        versions.record_champion(after.champion)


def _from(now: RoutingState | None, before: RoutingState, after: RoutingState) -> RoutingState:
    """Return what was shown, which holds for the state that it was made from only."""
    if now != before:
        writer = "nobody" if now is None else writer_of(now)
        raise Refused(f"the routing was changed meanwhile, by {writer}; look and ask again")
    return after


def _champion_of(state: RoutingState) -> str | None:
    return None if state.champion is None else state.champion.version


def _show(context: typer.Context, before: RoutingState, after: RoutingState, *, done: bool) -> None:
    changed = after is not before
    if global_options(context).output is OutputFormat.json:
        console.result_json(
            {
                "pipeline": before.pipeline,
                "dry_run": not done,
                "changed": changed,
                "revision": after.revision if done else before.revision,
                "before": [asdict(v) for v in before.versions],
                "after": [asdict(v) for v in after.versions],
            }
        )
    else:
        console.result_table(
            ("version", "now", "then"),
            [
                {"version": number, "now": now, "then": then}
                for number, (now, then) in _by_version(before, after).items()
            ],
        )
    if not changed:
        console.note("it is so already: nothing to do")
    elif done:
        console.note(f"revision {after.revision}; routers follow within seconds: 'penstock status'")
    else:
        console.note(
            f"nothing was changed. With --yes it is; --revision {before.revision} makes sure that "
            "it is from this state"
        )


def _by_version(before: RoutingState, after: RoutingState) -> dict[str, tuple[str, str]]:
    sides = [{v.version: _words(v) for v in state.versions} for state in (before, after)]
    numbers = dict.fromkeys(n for side in (sides[1], sides[0]) for n in side)
    return {n: (sides[0].get(n, "-"), sides[1].get(n, "-")) for n in numbers}


def _words(version: ModelVersion) -> str:
    weight = f"{version.weight} %" if version.weight else ""
    return " ".join(filter(None, (version.alias, version.state, weight)))


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """The versions of one pipeline's model.

    Parameters
    ----------
    folder
        The pipeline's.
    mlflow
        Tracking server; None where the settings name none.
    server
        The model server; None where the settings name none.
    """

    folder: Path
    mlflow: str | None
    server: ModelServer | None

    def named(self, state: RoutingState, version: str) -> ModelVersion:
        """Return a version that may be given keys: one of the state, or one that is registered.

        Raises
        ------
        Refused
            It is neither.
        ConfigError
            It is not in the state, and the settings name no tracking server.
        TrackingUnavailable
            MLflow does not answer.
        """
        there = find(state, version)
        if there is not None:
            return there
        tracker = self._tracker(state.pipeline)
        registered = tracker.versions()
        if version not in registered:
            raise Refused(
                f"{state.pipeline} has no version {version!r}; MLflow knows "
                f"{', '.join(registered) or 'none'}"
            )
        return routed(tracker.version(version), "", 0, "retired")

    def check(self, version: ModelVersion) -> None:
        """Refuse a version whose published file is not the one that was registered.

        Raises
        ------
        Refused
            Names both digests.
        """
        if self.server is None:
            return
        there = published_digest(self.server.models_dir, version.served_as)
        if there not in (None, version.digest):
            raise Refused(
                f"{self.server.models_dir / version.served_as}: digest is {there}, but version "
                f"{version.version} is {version.digest}; restore the file, or take another version"
            )

    def make_ready(self, version: ModelVersion) -> None:
        """Have the model server load the version beside the others, and try what is new to it.

        Raises
        ------
        Refused
            What MLflow holds is not what the routing state names.
        ModelUnavailable
            The server does not load it.
        """
        if self.server is None:
            return
        if published_digest(self.server.models_dir, version.served_as) == version.digest:
            load(self.server.triton_grpc, version.served_as)
            return
        from penstock_pipelines.loader import load_pipeline

        tracker = self._tracker(version.model_name)
        model = tracker.version(version.version)
        if model.digest != version.digest:
            raise Refused(
                f"MLflow {model.name}/{model.version}: digest is {model.digest}, but the routing "
                f"state names {version.digest}"
            )
        try:
            deploy(self.server, load_pipeline(self.folder), tracker, model)
        except RetryableError:
            raise
        except PenstockError as exc:
            raise Refused(f"version {version.version} does not pass its trial: {exc}") from exc

    def record_champion(self, version: ModelVersion) -> None:
        """Record the champion in MLflow; routers obey the topic, so a failure is only noted."""
        if self.mlflow is None:
            return
        try:
            self._tracker(version.model_name).set_alias(version.version, CHAMPION)
        except PenstockError as exc:
            console.note(f"penstock: done, but MLflow was not told: {exc}")

    def _tracker(self, model_name: str) -> Tracker:
        if self.mlflow is None:
            raise ConfigError(
                "PENSTOCK_MLFLOW_URL names no tracking server, and only versions of the routing "
                "state can be used without; see 'penstock model ls'"
            )
        return Tracker(self.mlflow, model_name)


def open_versions(profile: Profile, config: StackConfig, folder: Path) -> ModelVersions:
    """Return the versions of a pipeline's model, where the profile says.

    Raises
    ------
    ConfigError
        Profile prod, and the settings are incomplete.
    """
    found = addresses(profile, config)
    server = None
    if found.triton_grpc and found.models_dir:
        server = ModelServer(found.triton_grpc, found.models_dir)
    return ModelVersions(folder, found.mlflow_url, server)
