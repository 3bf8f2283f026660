"""What ``penstock dlq replay`` and ``dlq park`` share: selecting, doing, and telling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from penstock_cli import console
from penstock_cli.cluster import Cluster, Ticker, acting, bound, operation, topics_of, words
from penstock_cli.options import ExitCode, OutputFormat, WhichLetters, global_options

if TYPE_CHECKING:
    from penstock_replay.dead_letters import LetterFilter
    from penstock_replay.redrive import Tally


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done with which letters.

    Parameters
    ----------
    action
        ``dlq.replay`` or ``dlq.park``.
    arguments
        As given, for the audit.
    rate
        Records per second; as fast as it goes if None.
    parked
        The letters are among those that were put aside.
    """

    pipeline: str
    wanted: LetterFilter
    action: str
    arguments: Mapping[str, object]
    rate: float | None = None
    parked: bool = False


def letter_filter(which: WhichLetters) -> LetterFilter:
    """Return the letters that the options mean; a wrong option is a usage error."""
    from penstock_replay.dead_letters import LetterFilter
    from penstock_replay.offsets import RecordId

    try:
        ids = frozenset(map(RecordId.parse, which.ids or ()))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--id") from exc
    return LetterFilter(
        frozenset(which.dead_letter_class or ()),
        bound(which.since, "--from"),
        bound(which.until, "--to"),
        ids,
    )


def redrive(context: typer.Context, cluster: Cluster, work: Work, *, yes: bool) -> None:
    """Do it with ``--yes``, else show what would be done."""
    from penstock_replay.redrive import Redrive

    topics = topics_of(work.pipeline)
    with acting(cluster):
        letters = Redrive(cluster.kafka, cluster.audit, topics, work.action, parked=work.parked)
        if not yes:
            _show_tally(context, work.pipeline, letters.dry_run(work.wanted), dry_run=True)
            return
        doing = operation(work.action, work.pipeline, work.arguments)
        tally = letters.run(work.wanted, doing, work.rate, Ticker().show)
    _show_tally(context, work.pipeline, tally, dry_run=False)
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
