"""How ``penstock model`` changes what is served: look, check, show; with ``--yes`` also do it.

What was checked is what is written: a state that somebody else has changed meanwhile is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from penstock_replay.refusal import Refused
from penstock_routing.states import following, writer_of
from penstock_schemas.errors import ConfigError

from penstock_cli import console, rollout_moves
from penstock_cli.cluster import actor, operation
from penstock_cli.lifecycle_log import now_ms
from penstock_cli.options import ExitCode, OutputFormat, global_options
from penstock_cli.retrain_history import requests_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock_schemas.records import ModelVersion, RoutingState

    from penstock_cli.lifecycle_log import LifecycleLog
    from penstock_cli.model_versions import Versions

Move = Callable[["RoutingState", "ModelVersion"], "tuple[ModelVersion, ...]"]


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
    context: typer.Context, log: LifecycleLog, versions: Versions, wanted: Change, *, yes: bool
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
    rollout_moves.refuse_owned(state, requests_of(log.retrain_events()))
    return state


def _candidate(versions: Versions, state: RoutingState, version: str | None) -> ModelVersion:
    if version is None:
        return rollout_moves.previous(state)
    return versions.named(state, version)


def _carry_out(
    log: LifecycleLog,
    versions: Versions,
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


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal into its exit code."""
    try:
        yield
    except Refused as exc:
        console.note(f"penstock: refused: {exc}")
        raise typer.Exit(ExitCode.REFUSED) from exc


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
