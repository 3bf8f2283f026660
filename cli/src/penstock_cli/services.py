"""``penstock stop`` and ``penstock start``: single services of a stack that runs.

`nobody_in` uses them to have the service of a consumer group away while its offsets are moved.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from penstock_schemas.errors import Refused

from penstock_cli import console
from penstock_cli.options import DEFAULT_DATA_DIR, DataDir, ExitCode, recorded_state

if TYPE_CHECKING:
    from penstock_replay.group_offsets import GroupOffsets

SERVICES: Final = ("ingest", "inference", "drift", "retrain-trigger")
"""What may be stopped alone: nothing else of the stack needs it to run."""
STOPPED_WITHIN_S: Final = 40.0
READY_WITHIN_S: Final = 180.0
_POLL_S: Final = 0.1
EMPTY_WITHIN_S: Final = 60.0
"""A member that was killed stays in its group until its session ends."""
_EMPTY_POLL_S: Final = 0.5

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


def service_of(group: str) -> str | None:
    """Return the service that works in a group; None where it is none of ours.

    Examples
    --------
    >>> service_of("penstock-retrain-trigger-fraud"), service_of("penstock-cli")
    ('retrain-trigger', None)
    """
    names = (name for name in SERVICES if group.startswith(f"penstock-{name}-"))
    return next(names, None)


@contextmanager
def nobody_in(
    offsets: GroupOffsets, group: str, data_dir: Path, *, stop_service: bool
) -> Iterator[None]:
    """Make sure that nobody works in a group; with ``stop_service`` its service is stopped.

    The service is started again whatever happens.

    Raises
    ------
    Refused
        Somebody works in it; names the next step.
    """
    service = service_of(group)
    if not stop_service:
        try:
            offsets.refuse_members(group)
        except Refused as exc:
            raise Refused(f"{exc}{_next_step(service)}") from exc
        yield
        return
    if service is None:
        raise Refused(f"--stop-service: group {group} is of no service of the embedded stack")
    try:
        stop(service, data_dir)
        _wait_empty(offsets, group)
        yield
    finally:
        start(service, data_dir)


def _wait_empty(offsets: GroupOffsets, group: str) -> None:
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while True:
        try:
            return offsets.refuse_members(group)
        except Refused:
            if time.monotonic() > deadline:
                raise
        console.note(f"  waiting until {group} is empty")
        time.sleep(_EMPTY_POLL_S)


def _next_step(service: str | None) -> str:
    if service is None:
        return ""
    return (
        f": 'penstock stop {service}' before and 'penstock start {service}' afterwards, or "
        "--stop-service for both"
    )
