"""``penstock ledger``: the proof that every event ended in exactly one outcome."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock_cli import console
from penstock_cli.cluster import Cluster, bound, topics_of
from penstock_cli.options import (
    ExitCode,
    OutputFormat,
    PipelineName,
    Profile,
    Where,
    global_options,
    stack_config,
    with_groups,
)

if TYPE_CHECKING:
    from penstock_ledger import LedgerTopics, ReadOptions, Report
    from penstock_ledger.live import Since
    from penstock_registry.schema_registry import RegistryClient
    from penstock_schemas.topics import PipelineTopics

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@with_groups
def ledger(
    context: typer.Context,
    where: Where,
    pipeline: PipelineName,
    since: Annotated[
        str,
        typer.Option(
            "--from",
            help="Look at the events from then on: an age such as 15m or 2h, a time (ISO, or ms "
            "since the epoch), @OFFSET, @P:OFFSET,…, or start.",
        ),
    ] = "start",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Longest time to read, seconds.")
    ] = 600.0,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the temporary database: 0.5 GB per million events.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Check that every event has exactly one outcome, in order, from the model in force.

    Reads the pipeline's topics as a foreign client does, in both isolation levels, while it runs
    or not; what must be there follows from the groups' committed offsets. It writes nothing.
    The exit code is 0 if every law holds, 1 if one is broken, 3 if something cannot be reached.

    Example: penstock ledger fraud --from 15m -o json
    """
    from penstock_ledger import LedgerUnreachable, check_pipeline

    topics, options = _reading(context, pipeline, where, timeout_s)
    begin = _since(since)
    began = time.monotonic()
    try:
        report = check_pipeline(topics, options, begin, folder)
    except LedgerUnreachable as exc:
        at = f"Kafka at {options.bootstrap_servers}, registry at {options.registry_url}"
        raise LedgerUnreachable(f"{exc}; {at}; 'penstock status' tells what runs") from exc
    took_s = time.monotonic() - began
    if global_options(context).output is OutputFormat.json:
        console.result_json(facts(topics.pipeline, report, took_s))
    else:
        _print(report, took_s)
    if not report.ok:
        raise typer.Exit(ExitCode.FAILED)


def _since(text: str) -> Since:
    """Return where the window begins; a wrong text is a usage error."""
    age = _AGE.fullmatch(text)
    if age is not None:
        return time.time_ns() // 1_000_000 - int(age[1]) * _UNIT_S[age[2]] * 1_000
    from penstock_replay.offsets import Edge, OffsetBound, TimeBound

    match bound(text, "--from"):
        case TimeBound(at_ms):
            return at_ms
        case OffsetBound() as offsets:
            return offsets.of
        case Edge.START:
            return None
        case _:
            raise typer.BadParameter("at the end there is nothing to check", param_hint="--from")


def _reading(
    context: typer.Context,
    pipeline: str,
    where: Where,
    timeout_s: float,
) -> tuple[LedgerTopics, ReadOptions]:
    """Return what is read, and from where: the profile's addresses, or those of the options."""
    from penstock_ledger import ReadOptions
    from penstock_registry.schema_registry import RegistryClient

    names = topics_of(pipeline)
    if global_options(context).profile is Profile.prod:
        from penstock_cli.addresses import addresses

        found = addresses(Profile.prod, stack_config(where.data_dir, [pipeline], where.port_offset))
        kafka, registry = found.kafka, RegistryClient(found.registry)
        url = found.registry.url
    else:
        cluster = Cluster.of(where, [pipeline])
        kafka, registry, url = cluster.kafka, cluster.registry, cluster.registry_url
    return _ledger_topics(names), ReadOptions(
        kafka.bootstrap_servers,
        url,
        timeout_s=timeout_s,
        client=kafka.as_librdkafka(),
        schema_text=_SchemaTexts(registry),
    )


def _ledger_topics(names: PipelineTopics) -> LedgerTopics:
    from penstock_ledger import LedgerTopics

    return LedgerTopics(
        names.pipeline, names.events, names.features, names.predictions, names.models
    )


class _SchemaTexts:
    """The registry as the ledger asks it: an unknown id is a LookupError."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    def __call__(self, schema_id: int) -> str:
        from penstock_schemas.errors import SchemaError

        try:
            return self._registry.schema_text(schema_id)
        except SchemaError as exc:
            raise LookupError(str(exc)) from exc


def facts(pipeline: str, report: Report, took_s: float) -> dict[str, Any]:
    """Return a report as plain values."""
    return {
        "pipeline": pipeline,
        "ok": report.ok,
        "drained": report.drained,
        "seconds": round(took_s, 1),
        "records": {
            "events": report.events,
            "tombstones": report.tombstones,
            "copies": report.replays,
            "features": report.features,
            "predictions": report.predictions,
            "dead_letters": report.dead_letters,
            "pending": report.pending,
            "aborted": report.aborted,
            "unjudged": report.unjudged,
        },
        "invariants": _rows(report),
    }


def _rows(report: Report) -> list[dict[str, Any]]:
    """Return each invariant with its state, in their order, and the first offenders."""
    from penstock_ledger import INVARIANTS

    broken = {finding.invariant: finding for finding in report.findings}
    rows: list[dict[str, Any]] = []
    for one in INVARIANTS:
        finding = broken.get(one.name)
        state = "ok" if finding is None else "violated"
        why = report.unmeasured.get(one.name)
        offenders = () if finding is None else finding.offenders
        rows.append(
            {
                "invariant": one.name,
                "state": state if why is None else "not measured",
                "violations": 0 if finding is None else finding.count,
                "meaning": one.meaning,
                "why": why,
                "offenders": [
                    {"topic": topic, "partition": partition, "offset": offset, "what": what}
                    for topic, partition, offset, what in offenders
                ],
            }
        )
    return rows


def _print(report: Report, took_s: float) -> None:
    rows = [
        {**row, "meaning": row["meaning"] if row["why"] is None else row["why"]}
        for row in _rows(report)
    ]
    console.result_table(("invariant", "state", "violations", "meaning"), rows)
    console.result("")
    for finding in report.findings:
        console.result(str(finding))
    console.result(report.figures)
    if report.unjudged:
        console.result(f"{report.unjudged:,} predictions are older than the routing states known")
    per_s = report.events / max(took_s, 0.001)
    console.note(f"checked in {took_s:.1f} s, {per_s:,.0f} events/s")
