"""``penstock dlq``: find a dead letter, see why it failed, replay it or park it."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock_cli import console
from penstock_cli.cluster import (
    Cluster,
    Rate,
    Ticker,
    Yes,
    acting,
    bound,
    moment,
    operation,
    topics_of,
    words,
)
from penstock_cli.options import (
    ExitCode,
    OutputFormat,
    Where,
    WhichLetters,
    global_options,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_registry.schema_registry import RegistryClient
    from penstock_replay.dead_letters import Found, LetterFilter
    from penstock_replay.redrive import Tally

app = typer.Typer(help="Dead letters of a pipeline.", no_args_is_help=True)

PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="Name of the pipeline.")]
Parked = Annotated[bool, typer.Option("--parked", help="Of those that were put aside.")]
_TOP_CAUSES = 3
_HEX_BYTES: Final = 256
"""Of a value that cannot be decoded, shown at most."""


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


def letter_view(found: Found, registry: RegistryClient, *, payload: bool) -> dict[str, Any]:
    """Return what is shown of a letter.

    Parameters
    ----------
    payload
        Show keys, values and the producer's headers; otherwise only their shape.
    """
    from penstock_schemas.headers import DEAD_LETTER_HEADERS, DLQ_MODEL, DLQ_SCHEMA_ID

    letter, message = found.letter, found.message
    added = {n: (v or b"").decode(errors="replace") for n, v in letter.headers}
    original = [(n, v) for n, v in letter.headers if n not in DEAD_LETTER_HEADERS]
    value, form = decoded(message.value(), registry)
    return {
        "id": str(letter.record_id),
        "class": letter.dead_letter_class,
        "cause": letter.cause,
        "service": letter.service,
        "stage": letter.stage,
        "model": added.get(DLQ_MODEL) or None,
        "schema_id": added.get(DLQ_SCHEMA_ID) or None,
        "attempt": letter.attempts,
        "first_failed_at": moment(letter.failed_at_ms),
        "origin": str(letter.origin) if letter.origin else None,
        "timestamp": moment(message.timestamp()[1]),
        "done": found.is_done,
        "key": _text(message.key()) if payload else masked(message.key()),
        "headers": [{"name": n, "value": _text(v) if payload else masked(v)} for n, v in original],
        "format": form,
        "value": _plain(value) if payload else masked(value),
    }


def decoded(value: bytes | None, registry: RegistryClient) -> tuple[Any, str]:
    """Return a value for people and what it was read as: avro, json, bytes or tombstone."""
    from penstock_schemas.avro_rows import require_schema_id
    from penstock_schemas.codec import decode_one
    from penstock_schemas.errors import RecordError, RetryableError

    if value is None:
        return None, "tombstone"
    try:
        schema = registry.schema_text(require_schema_id(value))
        return _plain(decode_one(value, lambda _: schema, schema)), "avro"
    except (RecordError, RetryableError):
        pass
    try:
        return _plain(json.loads(value)), "json"
    except (ValueError, RecursionError):
        return value, "bytes"


def masked(value: Any) -> Any:
    """Return the shape of a value without what it says.

    Examples
    --------
    >>> masked({"card": "1234", "amounts": [1.5, 2.5], "ok": None})
    {'card': '<text of 4>', 'amounts': '<2 items>', 'ok': None}
    """
    match value:
        case None:
            return None
        case dict():
            return {name: masked(inner) for name, inner in value.items()}
        case list() | tuple():
            return f"<{len(value)} items>"
        case str():
            return f"<text of {len(value)}>"
        case bytes():
            return f"<{len(value)} bytes>"
        case bool():
            return "<true or false>"
        case _:
            return "<number>"


def print_letter(view: dict[str, Any]) -> None:
    """Print a letter as a block of lines."""
    state = "done" if view["done"] else "open"
    console.result(f"{view['id']}  {view['class']}  attempt {view['attempt']}  {state}")
    for name in ("cause", "service", "stage", "model", "schema_id", "origin"):
        if view[name]:
            console.result(f"  {name:<16}{view[name]}")
    console.result(f"  {'first failed at':<16}{view['first_failed_at'] or '-'}")
    console.result(f"  {'timestamp':<16}{view['timestamp']}")
    console.result(f"  {'key':<16}{_line(view['key'])}")
    for header in view["headers"]:
        console.result(f"  {'header':<16}{header['name']}: {_line(header['value'])}")
    console.result(f"  {'value':<16}{view['format']} {_line(view['value'])}")
    console.result("")


def _line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Return a decoded value as JSON can hold it."""
    match value:
        case dict():
            return {str(name): _plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bytes():
            return _text(value)
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case _:
            return value


def _text(value: bytes | None) -> str | None:
    """Return bytes as text if they are, else as hexadecimal digits."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if text.isprintable():
        return text
    rest = len(value) - _HEX_BYTES
    return f"0x{value[:_HEX_BYTES].hex()}" + (f"… {rest} bytes more" if rest > 0 else "")
