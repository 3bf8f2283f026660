"""``penstock audit ls``: who did what to the running system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.cluster import Cluster, acting, moment, words
from penstock_cli.options import (
    OutputFormat,
    Where,
    global_options,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_schemas.records import AuditEvent

app = typer.Typer(help="Who did what to the running system.", no_args_is_help=True)


@app.command("ls")
@with_groups
def ls(
    context: typer.Context,
    where: Where,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as dlq.replay.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Only this pipeline, topic or group.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many operations.")] = 20,
) -> None:
    """Show the newest operations: who, what, how it ended."""
    cluster = Cluster.of(where)
    by_operation: dict[str, list[AuditEvent]] = {}
    with acting(cluster):
        events = cluster.audit.events()
    for event in events:
        if action in (None, event.action) and subject in (None, event.subject):
            by_operation.setdefault(event.operation_id, []).append(event)
    rows = [summary(events) for events in by_operation.values()][-limit:]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"operations": rows})
    elif not rows:
        console.note("no such operation")
    else:
        for row in rows:
            row["counts"] = words(row["counts"])
            # What takes several lines, such as the offsets before a seek, is for -o json.
            given = row["arguments"].items()
            row["arguments"] = " ".join(f"{k}={v}" for k, v in given if v and "\n" not in v)
        columns = ("at", "actor", "action", "subject", "outcome", "counts", "arguments")
        console.result_table(columns, rows)


def summary(events: list[AuditEvent]) -> dict[str, Any]:
    """Return one operation as it stands after its events; without an end it is open."""
    first, last = events[0], events[-1]
    counts: dict[str, int] = {}
    for event in events:
        if event.phase == "progress":
            counts = {
                n: counts.get(n, 0) + event.counts.get(n, 0)
                for n in [*counts, *(n for n in event.counts if n not in counts)]
            }
    if last.phase == "end" and last.counts:
        counts = dict(last.counts)
    return {
        "id": first.operation_id,
        "at": moment(first.at),
        "actor": first.actor,
        "action": first.action,
        "subject": first.subject,
        "outcome": last.outcome if last.phase == "end" else "open",
        "ended_at": moment(last.at) if last.phase == "end" else None,
        "reason": last.reason,
        "counts": counts,
        "arguments": first.arguments,
    }
