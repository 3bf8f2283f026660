"""Options that several verbs share as a whole, each written down once.

A verb decorated with `with_groups` takes a group as one parameter; on the command line its fields
are options like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

import typer

from penstock_cli.options import DEFAULT_DATA_DIR, DataDir, PortOffset

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
