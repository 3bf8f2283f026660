"""What ``penstock dlq replay`` and ``dlq park`` share: selecting, doing, and telling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from penstock_cli import console
from penstock_cli.cluster import Cluster, Ticker, acting, bound, operation, topics_of, words
from penstock_cli.options import ExitCode, OutputFormat, global_options

if TYPE_CHECKING:
    from penstock_replay.letters import LetterFilter
    from penstock_replay.redrive import Tally


def letter_filter(
    classes: list[str] | None, since: str, until: str, ids: list[str] | None
) -> LetterFilter:
    """Return the letters that the options mean; a wrong option is a usage error."""
    from penstock_replay.letters import LetterFilter
    from penstock_replay.places import Place

    try:
        places = frozenset(map(Place.parse, ids or ()))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--id") from exc
    return LetterFilter(
        frozenset(classes or ()), bound(since, "--from"), bound(until, "--to"), places
    )


def redrive(
    context: typer.Context,
    options: tuple[Cluster, str, LetterFilter],
    action: str,
    arguments: Mapping[str, object],
    rate: float | None,
    *,
    yes: bool,
) -> None:
    """Do it with ``--yes``, else show what would be done.

    Parameters
    ----------
    options
        Where, the pipeline, and which letters.
    """
    from penstock_replay.redrive import Redrive

    cluster, pipeline, wanted = options
    topics = topics_of(pipeline)
    with acting(cluster):
        work = Redrive(cluster.kafka, cluster.audit, topics, action)
        if not yes:
            _show_tally(context, pipeline, work.dry_run(wanted), dry_run=True)
            return
        doing = operation(action, pipeline, arguments)
        tally = work.run(wanted, doing, rate, Ticker().show)
    _show_tally(context, pipeline, tally, dry_run=False)
    if tally.reasons:
        raise typer.Exit(ExitCode.REFUSED)


def _show_tally(context: typer.Context, pipeline: str, tally: Tally, *, dry_run: bool) -> None:
    rows = [
        {"topic": topic, "class": name, "becomes": fate, "letters": letters}
        for (topic, name, fate), letters in sorted(tally.rows.items())
    ]
    if global_options(context).output is OutputFormat.json:
        console.result_json(
            {
                "pipeline": pipeline,
                "dry_run": dry_run,
                "counts": dict(tally.counts),
                "groups": rows,
                "refusals": dict(tally.reasons),
            }
        )
    elif rows:
        console.result_table(("topic", "class", "becomes", "letters"), rows)
    for reason, letters in tally.reasons.most_common():
        console.note(f"{letters:,} refused: {reason}; 'penstock dlq park' puts them aside")
    if dry_run:
        console.note(f"{words(tally.counts)}; nothing was written. With --yes it is")
    elif not rows:
        console.note("no dead letter is meant by these options")
