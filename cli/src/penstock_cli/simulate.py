"""``penstock simulate``: publish realistic events and their delayed labels."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock_simulator.simulation import SimulationReport


class DriftChoice(StrEnum):
    """Kinds of drift that can be planted."""

    none = "none"
    concept = "concept"


def simulate(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(help="Name of the pipeline.")],
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 10_000,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Events per second; as fast as it goes if unset.")
    ] = None,
    drift: Annotated[DriftChoice, typer.Option(help="Drift to plant.")] = DriftChoice.none,
    drift_at: Annotated[
        int | None, typer.Option(min=0, help="First event after the drift; the middle if unset.")
    ] = None,
    label_delay: Annotated[
        float, typer.Option(min=0, help="Mean delay of a label, seconds of simulated time.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed: the same seed, the same events.")] = 1,
    bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of events broken on purpose.")
    ] = 0.0,
    pipelines_dir: Annotated[Path, typer.Option(help="Folder of the pipelines.")] = Path(
        "pipelines"
    ),
    port_offset: Annotated[int, typer.Option(help="That of `penstock up`.")] = 0,
    bootstrap_servers: Annotated[
        str | None, typer.Option(help="Kafka; the embedded one if unset.")
    ] = None,
    registry_url: Annotated[
        str | None, typer.Option(help="Schema registry; the embedded one if unset.")
    ] = None,
) -> None:
    """Publish simulated events, and their labels as interactions, to a pipeline's topics.

    The simulated time of the events ends about now, or goes on where an earlier run ended.
    """
    from penstock_pipelines.loader import load_pipeline
    from penstock_simulator.foreign_producer import Connection
    from penstock_simulator.generators import Drift
    from penstock_simulator.simulation import SimulationPlan
    from penstock_simulator.simulation import simulate as publish
    from penstock_stack.endpoints import Endpoints

    endpoints = Endpoints.from_environment(os.environ, port_offset)
    connection = Connection(
        bootstrap_servers or endpoints.address("KAFKA"),
        registry_url or endpoints.url("REGISTRY", "/apis/ccompat/v7"),
    )
    plan = SimulationPlan(
        events=events,
        rate=rate,
        seed=seed,
        drift=None
        if drift is DriftChoice.none
        else Drift("concept", events // 2 if drift_at is None else drift_at),
        label_delay_s=label_delay,
        bad_share=bad_share,
    )
    loaded = load_pipeline(pipelines_dir / pipeline)
    with _progress_bar(events) as progress:
        report = publish(loaded, connection, plan, progress)
    _print_summary(context, report)


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("events"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("events", total=total, rate=0.0)

        def advance(sent: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(task, completed=sent, rate=sent / elapsed if elapsed else 0.0)

        yield advance


def _print_summary(context: typer.Context, report: SimulationReport) -> None:
    options = context.find_root().obj
    wants_json = getattr(options, "output", None) == "json"
    facts = {
        "events": report.events,
        "spoilt": len(report.spoilt),
        "labels": report.labels,
        "positives": report.positives,
        "seconds": round(report.wall_s, 2),
        "events_per_s": round(report.events_per_s),
    }
    if wants_json:
        text = json.dumps(facts)
    else:
        text = (
            f"{report.events:,} events ({len(report.spoilt):,} broken on purpose), "
            f"{report.labels:,} labels, {report.positives:,} positive, "
            f"{report.wall_s:.1f} s, {report.events_per_s:,.0f}/s"
        )
    sys.stdout.write(text + "\n")
