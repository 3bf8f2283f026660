"""``penstock model``: what is served, and changing it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock_cli import console
from penstock_cli.cluster import Yes
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

if TYPE_CHECKING:
    from penstock_cli.rollout import Change

app = typer.Typer(help="Versions of a pipeline's model.", no_args_is_help=True)


Version = Annotated[str, typer.Argument(metavar="VERSION", help="Number of the version.")]
Revision = Annotated[
    int | None,
    typer.Option("--revision", help="Only if this revision of 'model ls' is still in force."),
]


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

    folder = pipeline_folder(pipeline)
    config = stack_config(data_dir, [pipeline], port_offset)
    log = open_log(global_options(context).profile, config, folder)
    state = log.routing()
    if state is None:
        raise ConfigError(f"pipeline {folder.name!r} has no model yet; 'penstock up' makes one")
    versions = [asdict(version) for version in state.versions]
    if global_options(context).output is OutputFormat.json:
        head = {"pipeline": state.pipeline, "revision": state.revision}
        written = {"updated_at": console.iso(state.updated_at), "updated_by": state.updated_by}
        console.result_json({**head, **written, "versions": versions})
        return
    shown = ("version", "alias", "weight", "state", "digest", "run_id")
    rows = [{**v, "alias": v["alias"] or None, "digest": v["digest"][:19]} for v in versions]
    console.result_table(shown, rows)
    console.note(
        f"revision {state.revision} by {state.updated_by}, {console.iso(state.updated_at)}"
    )


@app.command("promote")
def promote(
    context: typer.Context,
    pipeline: PipelineName,
    version: Version,
    revision: Revision = None,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Make a version the champion; the old one stays the way back.

    It is loaded and tried beside the others first.
    """
    from penstock_routing.rollout import promoted

    from penstock_cli.rollout import Change

    given = {"version": version, "revision": revision}
    wanted = Change("model.promote", version, promoted, given, revision)
    _change(context, pipeline, wanted, (data_dir, port_offset), yes=yes)


@app.command("rollback")
def rollback(
    context: typer.Context,
    pipeline: PipelineName,
    revision: Revision = None,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Give every key back to the champion before the present one; canaries end."""
    from penstock_routing.rollout import rolled_back

    from penstock_cli.rollout import Change

    wanted = Change(
        "model.rollback", None, lambda now, _: rolled_back(now), {"revision": revision}, revision
    )
    _change(context, pipeline, wanted, (data_dir, port_offset), yes=yes)


@app.command("canary")
def canary(
    context: typer.Context,
    pipeline: PipelineName,
    version: Version,
    percent: Annotated[
        int, typer.Option(min=0, max=99, help="Share of the keys that it answers for; 0 ends it.")
    ],
    revision: Revision = None,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Let a version answer for a share of the keys, or change that share."""
    from penstock_routing.rollout import with_canary

    from penstock_cli.rollout import Change

    given = {"version": version, "percent": percent, "revision": revision}
    wanted = Change(
        "model.canary", version, lambda now, v: with_canary(now, v, percent), given, revision
    )
    _change(context, pipeline, wanted, (data_dir, port_offset), yes=yes)


@app.command("shadow")
def shadow(
    context: typer.Context,
    pipeline: PipelineName,
    version: Version,
    off: Annotated[bool, typer.Option("--off", help="End it.")] = False,
    revision: Revision = None,
    yes: Yes = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show a version the rows; its answers go to the shadow topic only."""
    from penstock_routing.rollout import with_shadow

    from penstock_cli.rollout import Change

    given = {"version": version, "off": off or None, "revision": revision}
    wanted = Change(
        "model.shadow", version, lambda now, v: with_shadow(now, v, on=not off), given, revision
    )
    _change(context, pipeline, wanted, (data_dir, port_offset), yes=yes)


def _change(
    context: typer.Context,
    pipeline: str,
    wanted: Change,
    place: tuple[Path, int | None],
    *,
    yes: bool,
) -> None:
    from penstock_cli import lifecycle_log, rollout

    folder = pipeline_folder(pipeline)
    config = stack_config(place[0], [pipeline], place[1])
    profile = global_options(context).profile
    log = lifecycle_log.open_log(profile, config, folder)
    versions = rollout.open_versions(profile, config, folder)
    rollout.change(context, log, versions, wanted, yes=yes)
