"""``penstock dlq``: find a dead letter, see why, replay it or park it."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.cluster import (
    Bootstrap,
    Cluster,
    Rate,
    RegistryUrl,
    Yes,
    acting,
    moment,
    topics_of,
)
from penstock_cli.dlq_redrive import letter_filter, redrive
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    PortOffset,
    global_options,
)

if TYPE_CHECKING:
    from penstock_replay.dead_letters import Found

app = typer.Typer(help="Dead letters of a pipeline.", no_args_is_help=True)

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", help="Only this class (decode, schema, rule, …); repeatable."),
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--id", help="Only the letter at topic/partition/offset; repeatable."),
]
Since = Annotated[
    str, typer.Option("--from", help="First failed then or later: ISO time, ms, @OFFSET or start.")
]
Until = Annotated[
    str, typer.Option("--to", help="First failed before: ISO time, ms, @OFFSET, end.")
]
_TOP_CAUSES = 3


@app.command("ls")
def ls(
    context: typer.Context,
    pipeline: PipelineName,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
    bootstrap_servers: Bootstrap = None,
    registry_url: RegistryUrl = None,
) -> None:
    """Count dead letters by topic and class, with their causes; open ones still wait for you."""
    from penstock_replay.dead_letters import DeadLetters, done_by
    from penstock_replay.letters import LetterFilter, short_cause

    cluster = Cluster.of(data_dir, port_offset, bootstrap_servers, registry_url)
    topics = topics_of(pipeline)
    with acting(cluster):
        letters = DeadLetters(cluster.kafka, topics)
        done = done_by(cluster.audit.events())
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for batch in letters.find(LetterFilter(), done, [*letters.sources(), *letters.parking()]):
            for found in batch:
                letter = found.letter
                group = groups.setdefault(
                    (letter.place.topic, letter.dead_letter_class),
                    {"letters": 0, "open": 0, "times": [], "causes": Counter()},
                )
                group["letters"] += 1
                group["open"] += not (found.is_done or letter.place.topic.endswith(".parked"))
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
def show(
    context: typer.Context,
    pipeline: PipelineName,
    dead_letter_class: Classes = None,
    ids: Ids = None,
    since: Since = "start",
    until: Until = "end",
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 10,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show keys and values, which may be personal data.")
    ] = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
    bootstrap_servers: Bootstrap = None,
    registry_url: RegistryUrl = None,
) -> None:
    """Show dead letters: where they come from, why they failed, what they hold."""
    from penstock_replay.dead_letters import DeadLetters, done_by

    from penstock_cli.letter_view import letter_view, print_letter

    cluster = Cluster.of(data_dir, port_offset, bootstrap_servers, registry_url)
    wanted = letter_filter(dead_letter_class, since, until, ids)
    topics = topics_of(pipeline)
    with acting(cluster):
        letters = DeadLetters(cluster.kafka, topics)
        # One limit for each topic while reading, then the newest of all.
        newest: dict[str, deque[Found]] = {}
        for batch in letters.find(wanted, done_by(cluster.audit.events())):
            topic = batch[0].letter.place.topic
            newest.setdefault(topic, deque(maxlen=limit)).extend(batch)
        found = [one for kept in newest.values() for one in kept]
        found.sort(key=lambda f: (f.letter.failed_at_ms or 0, f.letter.place))
        views = [letter_view(one, cluster.registry, payload=payload) for one in found[-limit:]]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"pipeline": pipeline, "letters": views})
    elif not views:
        console.note("no such dead letter; 'penstock dlq ls' counts what is there")
    else:
        for view in views:
            print_letter(view)
    if ids and not views:
        raise typer.Exit(ExitCode.FAILED)


@app.command("replay")
def replay(
    context: typer.Context,
    pipeline: PipelineName,
    dead_letter_class: Classes = None,
    ids: Ids = None,
    since: Since = "start",
    until: Until = "end",
    rate: Rate = None,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
    bootstrap_servers: Bootstrap = None,
    registry_url: RegistryUrl = None,
) -> None:
    """Append the events of dead letters to their topic once more; each letter only once.

    A record that has failed more than three times is parked instead.
    """
    cluster = Cluster.of(data_dir, port_offset, bootstrap_servers, registry_url)
    wanted = letter_filter(dead_letter_class, since, until, ids)
    words_given = {"class": ",".join(dead_letter_class or ()), "from": since, "to": until}
    arguments = {**words_given, "ids": ",".join(ids or ()), "rate": rate}
    redrive(context, (cluster, pipeline, wanted), "dlq.replay", arguments, rate, yes=yes)


@app.command("park")
def park(
    context: typer.Context,
    pipeline: PipelineName,
    dead_letter_class: Classes = None,
    ids: Ids = None,
    since: Since = "start",
    until: Until = "end",
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
    bootstrap_servers: Bootstrap = None,
    registry_url: RegistryUrl = None,
) -> None:
    """Put dead letters aside in the topic of parked ones: nothing replays them any more."""
    cluster = Cluster.of(data_dir, port_offset, bootstrap_servers, registry_url)
    wanted = letter_filter(dead_letter_class, since, until, ids)
    words_given = {"class": ",".join(dead_letter_class or ()), "from": since, "to": until}
    arguments = {**words_given, "ids": ",".join(ids or ())}
    redrive(context, (cluster, pipeline, wanted), "dlq.park", arguments, None, yes=yes)
