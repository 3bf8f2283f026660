"""``penstock stop`` and ``penstock start``: single services of a stack that runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from penstock_cli import console
from penstock_cli.options import DEFAULT_DATA_DIR, DataDir, ExitCode, recorded_state

SERVICES: Final = ("ingest", "inference", "drift", "retrain-trigger")
"""What may be stopped alone: nothing else of the stack needs it to run."""
STOPPED_WITHIN_S: Final = 40.0
READY_WITHIN_S: Final = 180.0
_POLL_S: Final = 0.1

Service = Annotated[str, typer.Argument(metavar="SERVICE", help=f"One of {', '.join(SERVICES)}.")]


def stop(service: Service, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop one service and leave it stopped, also after 'down' and 'up'."""
    from penstock_stack.state import hold

    run_dir = _run_dir(service, data_dir)
    hold(run_dir, service)
    _wait(data_dir, service, "stopped", STOPPED_WITHIN_S)
    console.note(f"{service} is stopped until 'penstock start {service}'")


def start(service: Service, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Start a service that was stopped, and wait until it is ready."""
    from penstock_stack.state import release

    run_dir = _run_dir(service, data_dir)
    release(run_dir, service)
    _wait(data_dir, service, "ready", READY_WITHIN_S)
    console.note(f"{service} is ready")


def _run_dir(service: str, data_dir: Path) -> Path:
    if service not in SERVICES:
        raise typer.BadParameter(f"expected one of {', '.join(SERVICES)}", param_hint="SERVICE")
    data_dir = data_dir.resolve()
    state = recorded_state(data_dir)
    if not state.is_supervised:
        console.note(f"no stack runs on {data_dir}; start one with 'penstock up'")
        raise typer.Exit(ExitCode.UNREACHABLE)
    return data_dir / "run"


def _wait(data_dir: Path, service: str, wanted: str, within_s: float) -> None:
    """Wait until the supervisor says that the service is as wanted.

    Raises
    ------
    ComponentFailed
        It is not in time, or the supervisor ends.
    """
    from penstock_stack.component import ComponentFailed

    deadline = time.monotonic() + within_s
    while True:
        state = recorded_state(data_dir)
        found = state.components[service]
        if found.state == wanted:
            return
        if not state.is_supervised or time.monotonic() > deadline:
            raise ComponentFailed(
                f"{service} is {found.state}, not {wanted}, after {within_s:.0f} s"
                + (f": {found.error}" if found.error else "")
                + "; see 'penstock status'"
            )
        time.sleep(_POLL_S)
