"""``penstock config show``: what each service would really run with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    Pipelines,
    PortOffset,
    Profile,
    global_options,
    stack_config,
)
from penstock_cli.services import SERVICES

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig

app = typer.Typer(help="The settings in effect.", no_args_is_help=True)
_ANSWER_WITHIN_S: Final = 60.0


@app.callback()
def _settings() -> None:
    """Show the settings in effect."""


@app.command("show")
def show(
    context: typer.Context,
    pipeline: Pipelines = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show ports and every service's settings, defaults included, secrets masked.

    With --profile prod the services' settings are those of this environment alone.
    """
    config = stack_config(data_dir, pipeline, port_offset)
    given = _given(config) if global_options(context).profile is Profile.local else {}
    with ThreadPoolExecutor(max_workers=len(SERVICES)) as pool:
        answers = list(pool.map(lambda name: _effective(name, given.get(name, {})), SERVICES))
    services = {name: found for name, (found, _) in zip(SERVICES, answers, strict=True) if found}
    stack = {
        "data_dir": str(config.data_dir),
        "pipelines": [str(folder) for folder in config.pipelines],
        "ports": dict(config.endpoints.ports),
    }
    if global_options(context).output is OutputFormat.json:
        console.result_json({"stack": stack, "services": services})
    else:
        rows = [
            {"part": part, "setting": name, "value": value}
            for part, values in {"stack": stack, **services}.items()
            for name, value in flat(values)
        ]
        console.result_table(("part", "setting", "value"), rows)
    wrong = [why for _, why in answers if why]
    for why in wrong:
        console.note(why)
    if wrong:
        raise typer.Exit(ExitCode.FAILED)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings one by one, named as their variables are.

    Examples
    --------
    >>> list(flat({"kafka": {"linger_ms": 5}, "pipelines": ["a"]}))
    [('KAFKA__LINGER_MS', '5'), ('PIPELINES', '["a"]')]
    """
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}__".upper())
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{prefix}{name}".upper(), text


def _given(config: StackConfig) -> dict[str, Mapping[str, str]]:
    """Return what the supervisor adds to each service's environment."""
    from penstock_cli.up import components

    return {
        component.name: component.prepare().environment
        for component in components(config)
        if component.name in SERVICES and component.prepare is not None
    }


def _effective(service: str, given: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """Return a service's settings as it says itself, or why there are none."""
    command = [sys.executable, "-m", f"penstock_{service.replace('-', '_')}", "check-config"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **given},
            capture_output=True,
            text=True,
            timeout=_ANSWER_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        return {}, f"{service}: no answer within {_ANSWER_WITHIN_S:.0f} s"
    if done.returncode:
        return {}, done.stderr.strip()
    found: dict[str, Any] = json.loads(done.stdout)
    return found, ""
