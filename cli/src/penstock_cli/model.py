"""``penstock model ls``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    OutputFormat,
    PipelineName,
    PortOffset,
    global_options,
    pipeline_folder,
    stack_config,
)

app = typer.Typer(help="Versions of a pipeline's model.", no_args_is_help=True)


@app.callback()
def _versions() -> None:
    """Versions of a pipeline's model."""


@app.command("ls")
def ls(
    context: typer.Context,
    pipeline: PipelineName,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show what the routers are ordered to serve, and with which share of the keys."""
    from penstock_schemas.errors import ConfigError

    from penstock_cli.lifecycle_log import open_log
    from penstock_cli.retrain_history import iso

    folder = pipeline_folder(pipeline)
    config = stack_config(data_dir, [pipeline], port_offset)
    log = open_log(global_options(context).profile, config, folder)
    state = log.routing()
    if state is None:
        raise ConfigError(f"pipeline {folder.name!r} has no model yet; 'penstock up' makes one")
    versions = [asdict(version) for version in state.versions]
    if global_options(context).output is OutputFormat.json:
        head = {"pipeline": state.pipeline, "revision": state.revision}
        written = {"updated_at": iso(state.updated_at), "updated_by": state.updated_by}
        console.result_json({**head, **written, "versions": versions})
        return
    shown = ("version", "alias", "weight", "state", "digest", "run_id")
    rows = [{**v, "alias": v["alias"] or None, "digest": v["digest"][:19]} for v in versions]
    console.result_table(shown, rows)
    console.note(f"revision {state.revision} by {state.updated_by}, {iso(state.updated_at)}")
