"""``penstock demo``: the whole flow once, on fresh state."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_PIPELINE,
    OutputFormat,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

DEMO_DIR = Path(".penstock/demo")
DEFAULT_EVENTS = 50_000
PREDICTED_WITHIN_S = 180.0


@dataclass
class Summary:
    """What the demo did, stage by stage."""

    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; its error ends the demo."""
        console.note(f"{name} …")
        began = time.monotonic()
        yield
        seconds = round(time.monotonic() - began, 1)
        self.facts[f"{name.replace(' ', '_')}_s"] = seconds
        console.note(f"{name} done in {seconds} s")


def demo(
    context: typer.Context,
    pipeline: Annotated[str, typer.Option(help="Pipeline to show.")] = DEFAULT_PIPELINE,
    events: Annotated[int, typer.Option(min=1, help="Simulated events.")] = DEFAULT_EVENTS,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 1,
    port_offset: PortOffset = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
) -> None:
    """Start everything on fresh state, predict simulated events, stop, and show the figures."""
    from penstock_cli.up import start_detached, stop

    pipeline_folder(pipeline)
    stop(DEMO_DIR.resolve())
    if DEMO_DIR.exists():
        shutil.rmtree(DEMO_DIR)
    config = stack_config(DEMO_DIR, [pipeline], port_offset)
    summary = Summary({"pipeline": pipeline, "events": events})
    try:
        with summary.stage("stack and services ready"):
            start_detached(config)
        _run_events(config, events, seed, summary)
    finally:
        if not keep:
            with summary.stage("stopped"):
                stop(config.data_dir)
    if global_options(context).output is OutputFormat.json:
        console.result_json(summary.facts)
    else:
        rows = [{"figure": name, "value": value} for name, value in summary.facts.items()]
        console.result_table(("figure", "value"), rows)


def _run_events(config: StackConfig, events: int, seed: int, summary: Summary) -> None:
    from penstock_pipelines.loader import load_pipeline
    from penstock_simulator.foreign_producer import Connection
    from penstock_simulator.simulation import SimulationPlan, simulate
    from penstock_stack.registry_server import API_PATH

    from penstock_cli.terminal_records import wait_for_terminal

    loaded = load_pipeline(config.pipelines[0])
    bootstrap = config.endpoints.address("KAFKA")
    connection = Connection(bootstrap, config.endpoints.url("REGISTRY", API_PATH))
    began = time.monotonic()
    with summary.stage("events published"):
        report = simulate(loaded, connection, SimulationPlan(events=events, seed=seed), _silent)
    topics = loaded.config.topic_names
    with summary.stage("all predicted"), _bar(events) as progress:
        terminal = wait_for_terminal(bootstrap, topics, events, PREDICTED_WITHIN_S, progress)
    seconds = time.monotonic() - began
    summary.facts |= {
        "labels": report.labels,
        "predictions": terminal.predictions,
        "dead_letters": terminal.dead_letters,
        "duplicates": terminal.total - events,
        "events_per_s_end_to_end": round(events / seconds),
        "logs": os.fspath(config.logs),
    }


def _silent(_: int) -> None:
    """Ignore progress: publishing takes seconds."""


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    screen = Console(stderr=True)
    with Progress(console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("outcomes", total=total)
        yield lambda done: bar.update(task, completed=done)
