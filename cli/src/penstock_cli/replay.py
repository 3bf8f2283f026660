"""``penstock replay``: process a range of a topic once more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.cluster import (
    Cluster,
    Rate,
    Ticker,
    acting,
    actor,
    bound,
    words,
)
from penstock_cli.options import (
    ExitCode,
    OutputFormat,
    Pipelines,
    Where,
    global_options,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_replay.range_replay import RangePlan, Rules


@with_groups
def replay(
    context: typer.Context,
    where: Where,
    topic: Annotated[str, typer.Argument(help="Topic to read.")],
    since: Annotated[
        str,
        typer.Option(
            "--from", help="Time (ISO, or ms since the epoch), @OFFSET, @P:OFFSET,…, or start."
        ),
    ],
    until: Annotated[str, typer.Option("--to", help="The same, or end; it is left out itself.")],
    key: Annotated[list[str] | None, typer.Option(help="Only this key; repeatable.")] = None,
    rate: Rate = None,
    to_topic: Annotated[
        str | None, typer.Option(help="Isolated: copies go there; created if it is missing.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and write nothing.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Once more what is done already.")] = False,
    pipeline: Pipelines = None,
) -> None:
    """Append copies of a range to its events topic, or to a topic of your own.

    Copies have the key, value, timestamp and headers of their original, and the header
    penstock.replay.of. The same command given again goes on where an interrupted one stopped.
    """
    from penstock_replay.range_replay import RangeReplay, RangeRequest

    cluster = Cluster.of(where, pipeline)
    keys = sorted(set(key or ()))
    request = RangeRequest(
        topic,
        bound(since, "--from"),
        bound(until, "--to"),
        frozenset(k.encode() for k in keys),
        to_topic,
        rate,
        {"from": since, "to": until, "keys": "\n".join(keys), "to_topic": to_topic or ""},
    )
    with acting(cluster):
        work = RangeReplay(cluster.kafka, cluster.audit, request, _rules(cluster))
        plan = work.plan(again=again)
        if dry_run:
            _show_plan(context, plan, work.dry_run(plan))
            return
        console.note(f"{plan.operation_id}: {'going on' if plan.is_begun else 'begins'}")
        counts = work.run(plan, actor(), Ticker().show)
    _show_result(context, plan, counts)


def _rules(cluster: Cluster) -> Rules:
    """Return which topics may be written: known from the pipelines."""
    from penstock_replay.range_replay import Rules

    known = cluster.topics
    events = {names.events for names in known}
    return Rules(events, {topic.name for names in known for topic in names.all(1)} | events)


def _facts(plan: RangePlan) -> dict[str, Any]:
    return {
        "id": plan.operation_id,
        "topic": plan.selection.topic,
        "to_topic": plan.target,
        "resumed": plan.is_begun,
    }


def _show_plan(context: typer.Context, plan: RangePlan, found: dict[int, Counter[str]]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "partition": partition,
            "first": plan.selection.spans[partition].first,
            "end": plan.selection.spans[partition].end,
            "selected": counts["selected"],
            "passed_over": {k: n for k, n in counts.items() if k != "selected"},
        }
        for partition, counts in sorted(found.items())
    ]
    total = sum(row["selected"] for row in rows)
    if global_options(context).output is OutputFormat.json:
        console.result_json(
            {**_facts(plan), "dry_run": True, "selected": total, "partitions": rows}
        )
        return
    for row in rows:
        row["passed_over"] = words(row["passed_over"])
    console.result_table(("partition", "first", "end", "selected", "passed_over"), rows)
    console.note(
        f"{total:,} records would be copied to {plan.target}; nothing was written. "
        "Without --dry-run they are"
    )


def _show_result(context: typer.Context, plan: RangePlan, counts: Counter[str]) -> None:
    if global_options(context).output is OutputFormat.json:
        console.result_json({**_facts(plan), "dry_run": False, "counts": dict(counts)})
    else:
        passed_over = {name: n for name, n in counts.items() if name != "selected"}
        told = {"copied": counts["selected"], **passed_over}
        console.result(f"{plan.target}: {words(told)}")
    if counts["unreadable_headers"]:
        console.note("records whose header names are not UTF-8 cannot be copied truly: left out")
        raise typer.Exit(ExitCode.REFUSED)
