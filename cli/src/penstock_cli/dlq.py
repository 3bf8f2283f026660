"""``penstock dlq``: find a dead letter, see why, replay it or park it."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.cluster import (
    Cluster,
    Rate,
    Yes,
    acting,
    moment,
    topics_of,
)
from penstock_cli.dlq_redrive import Work, letter_filter, redrive
from penstock_cli.options import (
    ExitCode,
    OutputFormat,
    Where,
    WhichLetters,
    global_options,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_replay.dead_letters import Found

app = typer.Typer(help="Dead letters of a pipeline.", no_args_is_help=True)

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]
Parked = Annotated[bool, typer.Option("--parked", help="Of those that were put aside.")]
_TOP_CAUSES = 3


@app.command("ls")
@with_groups
def ls(
    context: typer.Context,
    pipeline: PipelineName,
    where: Where,
) -> None:
    """Count dead letters by topic and class, with their causes; open ones still wait for you."""
    from penstock_replay.dead_letters import DeadLetters, LetterFilter, done_by, short_cause

    cluster = Cluster.of(where)
    topics = topics_of(pipeline)
    with acting(cluster):
        letters = DeadLetters(cluster.kafka, topics)
        done = done_by(cluster.audit.events())
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for batch in letters.find(LetterFilter(), done, [*letters.sources(), *letters.parking()]):
            for found in batch:
                letter = found.letter
                group = groups.setdefault(
                    (letter.record_id.topic, letter.dead_letter_class),
                    {"letters": 0, "open": 0, "times": [], "causes": Counter()},
                )
                group["letters"] += 1
                group["open"] += not (found.is_done or letter.record_id.topic.endswith(".parked"))
                group["causes"][short_cause(letter.cause)] += 1
                if letter.failed_at_ms is not None:
                    known = [*group["times"], letter.failed_at_ms]
                    group["times"] = [min(known), max(known)]
    rows = [
        {
            "topic": topic,
            "class": name,
            "letters": group["letters"],
            "open": group["open"],
            "oldest": moment(group["times"][0]) if group["times"] else None,
            "newest": moment(group["times"][-1]) if group["times"] else None,
            "causes": dict(group["causes"].most_common(_TOP_CAUSES)),
        }
        for (topic, name), group in sorted(groups.items())
    ]
    _show_groups(context, pipeline, rows)


def _show_groups(context: typer.Context, pipeline: str, rows: list[dict[str, Any]]) -> None:
    if global_options(context).output is OutputFormat.json:
        console.result_json({"pipeline": pipeline, "groups": rows})
    elif not rows:
        console.note(f"no dead letters of {pipeline}")
    else:
        for row in rows:
            row["causes"] = "\n".join(f"{n} x {cause}" for cause, n in row["causes"].items())
        console.result_table(
            ("topic", "class", "letters", "open", "oldest", "newest", "causes"), rows
        )


@app.command("show")
@with_groups
def show(
    context: typer.Context,
    pipeline: PipelineName,
    which: WhichLetters,
    where: Where,
    parked: Parked = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 10,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show keys and values, which may be personal data.")
    ] = False,
) -> None:
    """Show dead letters: where they come from, why they failed, what they hold."""
    from penstock_replay.dead_letters import DeadLetters, done_by

    from penstock_cli.letter_view import letter_view, print_letter

    cluster = Cluster.of(where)
    wanted = letter_filter(which)
    topics = topics_of(pipeline)
    with acting(cluster):
        letters = DeadLetters(cluster.kafka, topics)
        # One limit for each topic while reading, then the newest of all.
        newest: dict[str, deque[Found]] = {}
        there = letters.parking() if parked else letters.sources()
        for batch in letters.find(wanted, done_by(cluster.audit.events()), there):
            topic = batch[0].letter.record_id.topic
            newest.setdefault(topic, deque(maxlen=limit)).extend(batch)
        found = [one for kept in newest.values() for one in kept]
        found.sort(key=lambda f: (f.letter.failed_at_ms or 0, f.letter.record_id))
        views = [letter_view(one, cluster.registry, payload=payload) for one in found[-limit:]]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"pipeline": pipeline, "letters": views})
    elif not views:
        console.note("no such dead letter; 'penstock dlq ls' counts what is there")
    else:
        for view in views:
            print_letter(view)
    if which.ids and not views:
        raise typer.Exit(ExitCode.FAILED)


@app.command("replay")
@with_groups
def replay(
    context: typer.Context,
    pipeline: PipelineName,
    which: WhichLetters,
    where: Where,
    parked: Parked = False,
    rate: Rate = None,
    yes: Yes = False,
) -> None:
    """Append the events of dead letters to their topic once more; each letter only once.

    A record that has failed more than three times is parked instead; with --parked, those that
    were put aside are tried once more, however often they have failed.
    """
    arguments = {**which.arguments, "rate": rate, "parked": parked or None}
    work = Work(pipeline, letter_filter(which), "dlq.replay", arguments, rate, parked=parked)
    redrive(context, Cluster.of(where), work, yes=yes)


@app.command("park")
@with_groups
def park(
    context: typer.Context,
    pipeline: PipelineName,
    which: WhichLetters,
    where: Where,
    yes: Yes = False,
) -> None:
    """Put dead letters aside in the topic of parked ones: nothing replays them any more."""
    work = Work(pipeline, letter_filter(which), "dlq.park", which.arguments)
    redrive(context, Cluster.of(where), work, yes=yes)
