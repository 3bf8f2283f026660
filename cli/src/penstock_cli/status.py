"""``penstock status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    global_options,
    recorded_state,
)

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig
    from penstock_stack.state import StackState


def status(context: typer.Context, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show every component and every pipeline; answers within two seconds."""
    data_dir = data_dir.resolve()
    state = recorded_state(data_dir)
    if not state.ports:
        console.note(f"no stack on {data_dir}; start one with 'penstock up'")
        if global_options(context).output is OutputFormat.json:
            console.result_json({"phase": "stopped", "components": [], "pipelines": []})
        raise typer.Exit(ExitCode.UNREACHABLE)
    report = collect(data_dir, state)
    if global_options(context).output is OutputFormat.json:
        console.result_json(report)
    else:
        console.result_table(("name", "state", "endpoint", "pids"), report["components"])
        if report["pipelines"]:
            console.result("")
            console.result_table(("name", "lag", "drain_s", "models"), _flat(report["pipelines"]))
    if report["phase"] == "stopped":
        raise typer.Exit(ExitCode.UNREACHABLE)


def collect(data_dir: Any, state: StackState) -> dict[str, Any]:
    """Return the contract's status document."""
    import os
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import asdict
    from pathlib import Path

    from penstock_stack.artifacts import cache_dir
    from penstock_stack.component import StackConfig
    from penstock_stack.status import component_statuses, endpoints_of

    from penstock_cli.up import components

    config = StackConfig(
        data_dir, cache_dir(os.environ), endpoints_of(state), tuple(map(Path, state.pipelines))
    )
    runs = state.phase not in ("stopped", "failed")
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(pipelines, config) if runs else None
        found = component_statuses(config, components(config), state)
        return {
            "phase": state.phase if state.is_supervised or not runs else "unsupervised",
            "components": [{**asdict(c), "pids": list(c.pids)} for c in found],
            "pipelines": asked.result() if asked is not None else [],
        }


def pipelines(config: StackConfig) -> list[dict[str, Any]]:
    """Ask about every pipeline at the same time: one that answers late delays no other."""
    from concurrent.futures import ThreadPoolExecutor

    from penstock_cli.pipeline_status import pipeline_status

    if not config.pipelines:
        return []
    with ThreadPoolExecutor(max_workers=len(config.pipelines)) as pool:
        return list(pool.map(lambda folder: pipeline_status(config, folder), config.pipelines))


def _flat(pipelines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**p, "models": [_model(m) for m in p["models"]]} for p in pipelines]


def _model(served: dict[str, Any]) -> str:
    """Return a served version in one word or two, such as ``7:champion(90%)``."""
    alias = f":{served['alias']}" if served["alias"] else ""
    return f"{served['version']}{alias}({served['weight']:g}%)"
