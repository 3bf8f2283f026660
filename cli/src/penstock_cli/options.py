"""Options that several verbs share, and what they mean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig
    from penstock_stack.state import StackState

DEFAULT_PIPELINE = "fraud"


class ExitCode(IntEnum):
    """What the shell learns."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


class OutputFormat(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


class Profile(StrEnum):
    """Where the commands act."""

    local = "local"
    prod = "prod"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """Options given before the verb.

    Parameters
    ----------
    output
        Format of results on standard output.
    profile
        local: the embedded stack; prod: addresses from settings.
    """

    output: OutputFormat = OutputFormat.table
    profile: Profile = Profile.local


DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="PENSTOCK_DATA_DIR", help="Where all state lives.")
]
PortOffset = Annotated[
    int | None,
    typer.Option("--port-offset", envvar="PENSTOCK_PORT_OFFSET", help="Added to every port."),
]
Pipelines = Annotated[
    list[str] | None,
    typer.Option("--pipeline", help="Pipeline, by name in ./pipelines or by folder; repeatable."),
]
PipelineName = Annotated[str, typer.Argument(help="Pipeline, by name in ./pipelines or by folder.")]
DEFAULT_DATA_DIR = Path(".penstock")


def global_options(context: typer.Context) -> GlobalOptions:
    """Return the options given before the verb."""
    options = context.find_root().obj
    return options if isinstance(options, GlobalOptions) else GlobalOptions()


def pipeline_folder(name: str) -> Path:
    """Return the folder of a pipeline given by name or by path.

    Raises
    ------
    typer.BadParameter
        There is no such folder with a pipeline.yaml.
    """
    for candidate in (Path("pipelines") / name, Path(name)):
        if (candidate / "pipeline.yaml").is_file():
            return candidate.resolve()
    raise typer.BadParameter(
        f"no pipeline {name!r}: expected pipelines/{name}/pipeline.yaml in {Path.cwd()}",
        param_hint="--pipeline",
    )


def recorded_state(data_dir: Path) -> StackState:
    """Return the state of the stack on ``data_dir``, running or not."""
    from penstock_stack.state import read_state

    return read_state(data_dir.resolve() / "run")


def stack_config(
    data_dir: Path, pipelines: list[str] | None = None, offset: int | None = None
) -> StackConfig:
    """Return the stack that the options mean.

    What is not given is taken from a stack that runs, or that was killed, on the same folder.
    """
    from penstock_stack.artifacts import cache_dir
    from penstock_stack.component import StackConfig
    from penstock_stack.endpoints import Endpoints

    state = recorded_state(data_dir)
    if state.phase in ("stopped", "failed"):
        recorded: tuple[str, ...] = ()
        recorded_offset = 0
    else:
        recorded, recorded_offset = state.pipelines, state.port_offset
    offset = recorded_offset if offset is None else offset
    names = pipelines or list(recorded) or [DEFAULT_PIPELINE]
    return StackConfig(
        data_dir=data_dir.resolve(),
        cache=cache_dir(os.environ).resolve(),
        endpoints=Endpoints.from_environment(os.environ, offset),
        pipelines=tuple(pipeline_folder(name) for name in names),
        port_offset=offset,
    )
