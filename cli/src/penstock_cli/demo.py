"""``penstock demo``: the loop closes once, on fresh state."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_PIPELINE,
    ExitCode,
    OutputFormat,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)
from penstock_cli.simulate import DriftChoice

if TYPE_CHECKING:
    from penstock_cli.demonstration.run import Outcome

DEMO_DIR = Path(".penstock/demo")
DRIFT_AT = 20_000
RATE = 1_200.0


def demo(
    context: typer.Context,
    pipeline: Annotated[str, typer.Option(help="Pipeline to show.")] = DEFAULT_PIPELINE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 1,
    drift: Annotated[DriftChoice, typer.Option(help="Drift to plant.")] = DriftChoice.concept,
    drift_at: Annotated[
        int, typer.Option(min=5_000, help="First event after the planted point.")
    ] = DRIFT_AT,
    rate: Annotated[float, typer.Option(min=50, help="Events per second.")] = RATE,
    retrain: Annotated[
        bool, typer.Option("--retrain/--no-retrain", help="Without: a control run.")
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    port_offset: PortOffset = None,
) -> None:
    """Start everything on fresh state and watch the loop close once.

    Drift is planted, found, a model is retrained, canaried and promoted, and predicts better.
    Whatever does not happen in time ends the demo with exit code 1, and is named.
    """
    from penstock_cli.demonstration.run import DemoPlan, run
    from penstock_cli.demonstration.view import view
    from penstock_cli.up import start_detached, stop

    began_s = time.monotonic()
    folder = simulated(pipeline)
    stop(DEMO_DIR.resolve())
    if DEMO_DIR.exists():
        shutil.rmtree(DEMO_DIR)
    if not retrain:
        folder = without_retraining(folder, DEMO_DIR / "control")
    config = stack_config(DEMO_DIR, [str(folder)], port_offset)
    plan = DemoPlan(seed, drift.value, drift_at, rate, retrain)
    try:
        start_detached(config)
        ready_s = time.monotonic() - began_s
        title = f"{folder.name}: {drift.value} drift at event {drift_at:,}, seed {seed}"
        with view(title) as shown:
            outcome = run(config, plan, shown)
    finally:
        if not keep:
            stop(config.data_dir)
    outcome.facts["ready_seconds"] = round(ready_s, 1)
    outcome.facts["seconds"] = round(time.monotonic() - began_s, 1)
    _print(context, outcome)


def simulated(pipeline: str) -> Path:
    """Return the folder of a pipeline that can be shown.

    Raises
    ------
    ConfigError
        If it has no simulator.
    """
    from penstock_pipelines.loader import load_pipeline
    from penstock_schemas.errors import ConfigError

    folder = pipeline_folder(pipeline)
    if load_pipeline(folder).config.model.bootstrap.simulator is None:
        raise ConfigError(
            f"pipeline {folder.name!r} has no simulator, so there is nothing to plant drift in: "
            "set model.bootstrap.simulator"
        )
    return folder


def without_retraining(folder: Path, root: Path) -> Path:
    """Return a copy of a pipeline folder that says ``retrain: {enabled: false}``."""
    import yaml

    copy = root.resolve() / folder.name
    shutil.copytree(folder, copy)
    file = copy / "pipeline.yaml"
    document = yaml.safe_load(file.read_text("utf-8"))
    document["retrain"] = {**(document.get("retrain") or {}), "enabled": False}
    file.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")
    return copy


def _print(context: typer.Context, outcome: Outcome) -> None:
    """Print the figures; a demo that has not shown everything fails."""
    from penstock_cli.demonstration.summary import table

    ok = outcome.missed is None and outcome.ledger.is_clean
    if global_options(context).output is OutputFormat.json:
        console.result_json({"ok": ok, **outcome.facts})
    else:
        console.result_table(("figure", "value"), table(outcome.facts))
    if outcome.missed is not None:
        raise outcome.missed
    if not ok:
        counts = outcome.ledger
        console.note(f"penstock: {counts.lost:,} events lost, {counts.duplicates:,} duplicates")
        raise typer.Exit(ExitCode.FAILED)
