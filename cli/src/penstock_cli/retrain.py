"""``penstock retrain request``, ``retrain ls`` and ``retrain cancel``."""

from __future__ import annotations

import getpass
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from penstock_schemas.errors import ConfigError
from penstock_schemas.retrain_requests import ENDS_OR_SUPPRESSED, Request, requests_of

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    PipelineName,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)

if TYPE_CHECKING:
    from pathlib import Path

    from penstock_schemas.records import RetrainEvent

    from penstock_cli.lifecycle_log import LifecycleLog

app = typer.Typer(help="Retraining: ask for it, follow it, call it off.", no_args_is_help=True)
WAIT_S = 3_600.0
WHY_LENGTH = 70
_FACTS: Final = ("verdict", "model_version", "run_id", "job_id")


@app.command("request")
def request(
    context: typer.Context,
    pipeline: PipelineName,
    reason: Annotated[str, typer.Option(help="Why, in words; kept in the history.")] = "by hand",
    since: Annotated[
        str | None, typer.Option(help="Train on events from then on, ISO 8601; UTC if unsaid.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Ask for a retraining and print the request's id; retrain-trigger decides.

    With --wait the exit code is 0 after a promotion, 4 if the policy suppressed it, else 1.
    """
    from penstock_schemas.records import RetrainEvent

    from penstock_cli.lifecycle_log import now_ms

    data_since = None if since is None else _time(since)
    log = _log(context, pipeline, data_dir, port_offset)
    event = RetrainEvent.request(
        f"cli-{uuid.uuid4().hex[:12]}",
        log.topics.pipeline,
        now_ms(),
        "cli",
        actor=_user(),
        reason=reason,
        data_since=data_since,
    )
    log.append(event)
    if wait:
        raise typer.Exit(_wait(context, log, event.request_id))
    if global_options(context).output is OutputFormat.json:
        console.result_json({"request_id": event.request_id})
    else:
        console.result(event.request_id)


@app.command("ls")
def ls(
    context: typer.Context,
    pipeline: PipelineName,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show every request, why it was made, and what became of it."""
    log = _log(context, pipeline, data_dir, port_offset)
    rows = [row_of(one) for one in requests_of(log.retrain_events(), ENDS_OR_SUPPRESSED)]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"pipeline": log.topics.pipeline, "requests": rows})
    elif not rows:
        console.note(f"no request for {log.topics.pipeline} yet")
    else:
        shown = ("requested_at", "request_id", "source", "state", "version", "auc", "why")
        console.result_table(shown, [_flat(row) for row in rows])


@app.command("cancel")
def cancel(
    context: typer.Context,
    pipeline: PipelineName,
    request_id: Annotated[
        str | None, typer.Argument(help="The request; the one in flight if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; otherwise only say what.")] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Call a retraining off; a dry run unless --yes."""
    from penstock_cli.lifecycle_log import now_ms

    log = _log(context, pipeline, data_dir, port_offset)
    found = to_cancel(requests_of(log.retrain_events(), ENDS_OR_SUPPRESSED), request_id)
    user = _user()
    if yes:
        log.append(
            found.events[0].followed_by(
                "cancelled", now_ms(), actor=user, reason=f"cancelled by {user}"
            )
        )
    else:
        console.note("dry run: nothing is changed without --yes")
    facts = {"request_id": found.request_id, "state": found.last.state, "cancelled": yes}
    if global_options(context).output is OutputFormat.json:
        console.result_json(facts)
    else:
        console.result_table(tuple(facts), [facts])


def _log(
    context: typer.Context, pipeline: str, data_dir: Path, port_offset: int | None
) -> LifecycleLog:
    from penstock_cli.lifecycle_log import open_log

    folder = pipeline_folder(pipeline)
    config = stack_config(data_dir, [pipeline], port_offset)
    return open_log(global_options(context).profile, config, folder)


def _wait(context: typer.Context, log: LifecycleLog, request_id: str) -> ExitCode:
    seen: dict[str, RetrainEvent] = {}

    def is_last(event: RetrainEvent) -> bool:
        seen[event.event_id] = event
        console.note(" ".join(filter(None, (event.state, event.verdict, event.reason))))
        return event.state in ENDS_OR_SUPPRESSED

    last = log.wait_for(request_id, is_last, WAIT_S)
    if global_options(context).output is OutputFormat.json:
        console.result_json(row_of(requests_of(seen.values(), ENDS_OR_SUPPRESSED)[0]))
    else:
        console.result(request_id)
    if last.state == "suppressed":
        return ExitCode.REFUSED
    return ExitCode.OK if last.verdict == "promoted" else ExitCode.FAILED


def row_of(request: Request) -> dict[str, Any]:
    """Return a request as ``retrain ls -o json`` prints it."""
    events = request.events
    first = events[0]

    def newest(name: str) -> Any:
        """Return the newest value of a field that was given at all, else an empty one."""
        values = [getattr(event, name) for event in events]
        return next((value for value in reversed(values) if value), values[0])

    return {
        "request_id": request.request_id,
        "requested_at": console.iso(first.at),
        "source": first.source,
        "actor": first.actor,
        "requested_because": first.reason,
        "cause_ids": list(first.cause_ids),
        "data_since": None if first.data_since is None else console.iso(first.data_since),
        "state": request.last.state,
        "reason": request.last.reason,
        **{name: newest(name) or None for name in _FACTS},
        "metrics": newest("metrics"),
        "history": [
            {"state": e.state, "at": console.iso(e.at), "actor": e.actor, "reason": e.reason}
            for e in events
        ],
    }


def to_cancel(requests: list[Request], request_id: str | None) -> Request:
    """Return the request that can be cancelled: the given one, or the one in flight.

    Raises
    ------
    ConfigError
        If there is none, it has ended, or several are in flight and none is given.
    """
    if request_id is None:
        open_ones = [request for request in requests if request.is_open]
        if len(open_ones) == 1:
            return open_ones[0]
        if not open_ones:
            raise ConfigError("no request is in flight: there is nothing to cancel")
        ids = ", ".join(request.request_id for request in open_ones)
        raise ConfigError(f"several requests are in flight; name one of {ids}")
    found = next((r for r in requests if r.request_id == request_id), None)
    if found is None:
        raise ConfigError(f"no request {request_id!r}; see 'penstock retrain ls'")
    if not found.is_open:
        raise ConfigError(f"request {request_id!r} has ended: {found.last.state}")
    return found


def parse_time(text: str) -> int:
    """Return an ISO 8601 time, UTC unless it says otherwise, as milliseconds since the epoch.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_time("2025-06-15T15:06:40Z")
    1750000000000
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _time(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r}: {exc}", param_hint="--since") from exc


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    auc = row["metrics"].get("canary_auc") or row["metrics"].get("holdout_auc")
    champion = row["metrics"].get("champion_auc") or row["metrics"].get("champion_holdout_auc")
    known = [f"{value:.4f}" for value in (auc, champion) if value is not None]
    return {
        **row,
        "state": " ".join(filter(None, (row["state"], row["verdict"]))),
        "version": row["model_version"],
        "auc": " vs champion ".join(known) or None,
        "why": _short(row["reason"] or row["requested_because"]),
    }


def _short(text: str) -> str:
    """Return the beginning of a reason; ``-o json`` has all of it."""
    return text if len(text) <= WHY_LENGTH else f"{text[: WHY_LENGTH - 1]}…"
