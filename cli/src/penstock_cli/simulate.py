"""``penstock simulate``: publish realistic events and their delayed labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    OutputFormat,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)

if TYPE_CHECKING:
    from penstock_simulator.simulation import SimulationReport


class DriftChoice(StrEnum):
    """Kinds of drift that can be planted."""

    none = "none"
    covariate = "covariate"
    concept = "concept"
    label = "label"


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
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
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
    from penstock_stack.registry_server import API_PATH

    folder = pipeline_folder(pipeline)
    endpoints = stack_config(data_dir, offset=port_offset).endpoints
    connection = Connection(
        bootstrap_servers or endpoints.address("KAFKA"),
        registry_url or endpoints.url("REGISTRY", API_PATH),
    )
    plan = SimulationPlan(
        events=events,
        rate=rate,
        seed=seed,
        drift=Drift(drift.value, events // 2 if drift_at is None else drift_at),
        label_delay_s=label_delay,
        bad_share=bad_share,
    )
    loaded = load_pipeline(folder)
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
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("events", total=total, rate=0.0)

        def advance(sent: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(task, completed=sent, rate=sent / elapsed if elapsed else 0.0)

        yield advance


def _print_summary(context: typer.Context, report: SimulationReport) -> None:
    if global_options(context).output is OutputFormat.json:
        facts = {
            "events": report.events,
            "spoilt": len(report.spoilt),
            "labels": report.labels,
            "positives": report.positives,
            "seconds": round(report.wall_s, 2),
            "events_per_s": round(report.events_per_s),
        }
        console.result_json(facts)
        return
    console.result(
        f"{report.events:,} events ({len(report.spoilt):,} broken on purpose), "
        f"{report.labels:,} labels, {report.positives:,} positive, "
        f"{report.wall_s:.1f} s, {report.events_per_s:,.0f}/s"
    )
