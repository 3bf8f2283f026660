"""``penstock offsets``: where consumer groups are, and moving them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.cluster import (
    Cluster,
    Yes,
    acting,
    bound,
    operation,
)
from penstock_cli.options import (
    OutputFormat,
    Where,
    global_options,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_replay.group_offsets import GroupOffsets, Move
    from penstock_replay.offsets import Offsets

app = typer.Typer(help="Positions of consumer groups.", no_args_is_help=True)

Acceptance = Annotated[
    bool,
    typer.Option("--accept-duplicates", help="Go back although outputs are there already."),
]


@app.command("show")
@with_groups
def show(
    context: typer.Context,
    where: Where,
    group: Annotated[
        str | None, typer.Option(help="A group, or a pipeline; all of Penstock's if unset.")
    ] = None,
) -> None:
    """Show committed offsets, ends and lag."""
    from dataclasses import asdict

    from penstock_replay.group_offsets import GroupOffsets

    cluster = Cluster.of(where)
    with acting(cluster):
        offsets = GroupOffsets(cluster.kafka)
        rows: list[dict[str, Any]] = [
            {**asdict(position), "lag": position.lag}
            for name in offsets.groups(group)
            for position in offsets.show(name)
        ]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"offsets": rows})
    elif not rows:
        console.note("no committed offsets")
    else:
        columns = ("group", "state", "topic", "partition", "committed", "end", "lag")
        console.result_table(columns, rows)


@app.command("seek")
@with_groups
def seek(
    context: typer.Context,
    where: Where,
    group: Annotated[str, typer.Option(help="The group to move.")],
    to: Annotated[
        str | None, typer.Option(help="start, end, ISO time, ms since the epoch, or @OFFSET.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Lines 'topic partition offset' instead.", exists=True, dir_okay=False),
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Only this topic; repeatable; all if unset.")
    ] = None,
    accept_duplicates: Acceptance = False,
    stop_service: Annotated[
        bool,
        typer.Option("--stop-service", help="Stop the group's service for it, start it again."),
    ] = False,
    yes: Yes = False,
) -> None:
    """Move a group that nobody works in; backwards makes duplicates."""
    from penstock_replay.group_offsets import GroupOffsets
    from penstock_schemas.errors import Refused

    from penstock_cli.services import nobody_in

    if (to is None) == (file is None):
        raise typer.BadParameter("give one of --to and --file", param_hint="--to")
    cluster = Cluster.of(where)
    with acting(cluster):
        offsets = GroupOffsets(cluster.kafka)
        moves = _moves(offsets, group, to, file, tuple(topic or ()))
        if yes:
            backward = [m for m in moves if m.is_backward]
            if backward and not accept_duplicates:
                raise Refused(
                    f"{len(backward)} partitions go back, {backward[0].topic}/"
                    f"{backward[0].partition} from {backward[0].committed} to "
                    f"{backward[0].target}: their outputs will be there twice; "
                    "--accept-duplicates allows it"
                )
            text = {"to": to, "file": file, "topics": ",".join(topic or ())}
            given = {**text, "accept_duplicates": accept_duplicates or None}
            with nobody_in(offsets, group, where.data_dir, stop_service=stop_service):
                offsets.seek(moves, operation("offsets.seek", group, given), cluster.audit)
    _show_moves(context, group, moves, done=yes)


def _moves(
    offsets: GroupOffsets, group: str, to: str | None, file: Path | None, topics: tuple[str, ...]
) -> list[Move]:
    if file is not None:
        return offsets.plan_file(group, _offsets_in(file, topics))
    return offsets.plan(group, topics, bound(to or "", "--to"))


def _offsets_in(file: Path, topics: tuple[str, ...]) -> Offsets:
    from penstock_replay.offsets import parse_offsets

    try:
        found = parse_offsets(file.read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise typer.BadParameter(f"{file}: {exc}", param_hint="--file") from exc
    return {place: o for place, o in found.items() if not topics or place[0] in topics}


def _show_moves(context: typer.Context, group: str, moves: list[Move], *, done: bool) -> None:
    rows = [
        {
            "topic": move.topic,
            "partition": move.partition,
            "committed": move.committed,
            "target": move.target,
            "backward": move.is_backward,
        }
        for move in moves
    ]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"group": group, "dry_run": not done, "moves": rows})
    else:
        console.result_table(("topic", "partition", "committed", "target", "backward"), rows)
    if not done:
        console.note("nothing was changed. With --yes it is, if nobody works in the group")
