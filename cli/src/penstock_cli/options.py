"""Options that several verbs share, and what they mean.

A verb decorated with `with_groups` takes a group of options as one parameter; on the command line
its fields are options like any other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum, StrEnum
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from penstock_schemas.topics import PipelineTopics
    from penstock_stack.component import StackConfig
    from penstock_stack.state import StackState

DEFAULT_PIPELINE = "fraud"


class ExitCode(IntEnum):
    """Exit codes of every verb."""

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
    """Which cluster the commands act on."""

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


def topics_of(folder: Path) -> PipelineTopics:
    """Return a pipeline's topic names; its file was validated when the stack started."""
    import yaml
    from penstock_schemas.topics import PipelineTopics

    document = yaml.safe_load((folder / "pipeline.yaml").read_text("utf-8"))
    return PipelineTopics(folder.name, document.get("topics") or {})


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


Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap-servers", help="Kafka; the embedded one if unset."),
]
RegistryUrl = Annotated[
    str | None, typer.Option("--registry-url", help="Schema registry; the embedded one if unset.")
]


@dataclass(frozen=True, slots=True)
class Where:
    """Which broker and registry a verb acts on."""

    data_dir: DataDir = DEFAULT_DATA_DIR
    port_offset: PortOffset = None
    bootstrap_servers: Bootstrap = None
    registry_url: RegistryUrl = None


@dataclass(frozen=True, slots=True)
class WhichLetters:
    """Which dead letters a verb means."""

    dead_letter_class: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only this class (decode, schema, rule, …); repeatable."),
    ] = None
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only the letter at topic/partition/offset; repeatable."),
    ] = None
    since: Annotated[
        str,
        typer.Option("--from", help="First failed then or later: ISO time, ms, @OFFSET or start."),
    ] = "start"
    until: Annotated[
        str, typer.Option("--to", help="First failed before: ISO time, ms, @OFFSET, end.")
    ] = "end"

    @property
    def arguments(self) -> dict[str, object]:
        """Return the options as given, for the audit."""
        return {
            "class": ",".join(self.dead_letter_class or ()),
            "from": self.since,
            "to": self.until,
            "ids": ",".join(self.ids or ()),
        }


def with_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb whose parameters that are groups are taken apart into their options."""
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, type[Any]] = {}
    shown: list[Parameter] = []
    for parameter in signature(verb).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            shown += _options(kind)
        else:
            shown.append(parameter.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(verb)
    def taking(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        verb(**given)

    # What the command line library reads instead of the verb's own.
    taking.__signature__ = signature(verb).replace(parameters=shown)  # type: ignore[attr-defined]
    taking.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return taking


def _options(kind: type[Any]) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(kind)
    ]
