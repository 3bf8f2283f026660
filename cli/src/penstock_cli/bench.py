"""``penstock bench``: the benchmarks of benchmarks/README.md, on infrastructure of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from penstock_cli.options import OutputFormat, PortOffset, global_options

app = typer.Typer(no_args_is_help=True, help="Run a benchmark of benchmarks/README.md.")

FOLDER: Final = "benchmarks"
OWN_OFFSET: Final = 20_000
"""Beside a stack that runs on the default ports."""
Value = int | str | bool | list[str] | list[int] | None


class Part(StrEnum):
    """Parts of the benchmark of inference."""

    systems = "systems"
    costs = "costs"
    latency = "latency"


@app.command("inference")
def inference(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Small numbers: does it work?")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Leave out the other parts.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Part of a contender's name; may be repeated.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs of each contender.")] = None,
    records: Annotated[
        int | None, typer.Option(min=10_000, help="Records each contender reads.")
    ] = None,
    port_offset: PortOffset = None,
) -> None:
    """Compare Penstock with the hand-written loop and other frameworks: about 40 minutes.

    PENSTOCK_PEERS names the folder of their scripts; what cannot be had is left out and named.
    """
    is_json = global_options(context).output is OutputFormat.json
    options: dict[str, Value] = {
        "quick": quick,
        "json": is_json,
        "part": [p.value for p in part or ()],
        "only": only or [],
        "repeats": repeats,
        "records": records,
        "port-offset": OWN_OFFSET if port_offset is None else port_offset,
    }
    _run("bench_inference.py", arguments(options))


@app.command("loop")
def loop(
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seeds; five by default.")] = None,
    port_offset: PortOffset = None,
) -> None:
    """Run the demo on several seeds, each with its controls: about eight minutes a seed."""
    offset = OWN_OFFSET if port_offset is None else port_offset
    given = arguments({"port-offset": offset})
    if seed:
        given += ["--seeds", *map(str, seed)]
    _run("bench_loop.py", given)


def arguments(options: Mapping[str, Value]) -> list[str]:
    """Return options as a command line: what is unset is left out, a list is repeated.

    Examples
    --------
    >>> arguments({"quick": True, "json": False, "only": ["a", "b"], "repeats": None})
    ['--quick', '--only', 'a', '--only', 'b']
    """
    return [text for name, value in options.items() for text in _one(f"--{name}", value)]


def _one(flag: str, value: Value) -> Iterator[str]:
    if isinstance(value, bool):
        yield from [flag] * value
    elif isinstance(value, list):
        for one in value:
            yield from (flag, str(one))
    elif value is not None:
        yield from (flag, str(value))


def script(name: str) -> Path:
    """Return a benchmark's script: of the working directory, or of the source tree we run from.

    Raises
    ------
    typer.BadParameter
        There is neither; an installed wheel has no benchmarks.
    """
    for folder in (Path.cwd(), Path(__file__).parents[3]):
        if (path := folder / FOLDER / name).is_file():
            return path
    raise typer.BadParameter(
        f"no {FOLDER}/{name} in {Path.cwd()}: run it from a clone of the repository"
    )


def _run(name: str, given: list[str]) -> None:
    path = script(name)
    done = subprocess.run([sys.executable, str(path), *given], cwd=path.parents[1], check=False)
    raise typer.Exit(done.returncode)
