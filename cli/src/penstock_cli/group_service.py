"""The service that works in a consumer group, and having it away while the group is moved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from penstock_replay.refusal import Refused

from penstock_cli import console, services

if TYPE_CHECKING:
    from penstock_replay.group_offsets import GroupOffsets

EMPTY_WITHIN_S: Final = 60.0
"""A member that could not say goodbye is missed by the broker after its session only."""
_POLL_S: Final = 0.5


def service_of(group: str) -> str | None:
    """Return the service that works in a group; None where it is none of ours.

    Examples
    --------
    >>> service_of("penstock-retrain-trigger-fraud"), service_of("penstock-cli")
    ('retrain-trigger', None)
    """
    names = (name for name in services.SERVICES if group.startswith(f"penstock-{name}-"))
    return next(names, None)


@contextmanager
def nobody_in(offsets: GroupOffsets, group: str, data_dir: Path, *, stop: bool) -> Iterator[None]:
    """Make sure that nobody works in a group; with ``stop`` by stopping its service meanwhile.

    The service is started again whatever happens.

    Raises
    ------
    Refused
        Somebody works in it; names the next step.
    """
    service = service_of(group)
    if not stop:
        try:
            offsets.refuse_members(group)
        except Refused as exc:
            raise Refused(f"{exc}{_next_step(service)}") from exc
        yield
        return
    if service is None:
        raise Refused(f"--stop-service: group {group} is of no service of the embedded stack")
    try:
        services.stop(service, data_dir)
        _wait_empty(offsets, group)
        yield
    finally:
        services.start(service, data_dir)


def _wait_empty(offsets: GroupOffsets, group: str) -> None:
    deadline = time.monotonic() + EMPTY_WITHIN_S
    while True:
        try:
            return offsets.refuse_members(group)
        except Refused:
            if time.monotonic() > deadline:
                raise
        console.note(f"  waiting until {group} is empty")
        time.sleep(_POLL_S)


def _next_step(service: str | None) -> str:
    if service is None:
        return ""
    return (
        f": 'penstock stop {service}' before and 'penstock start {service}' afterwards, or "
        "--stop-service for both"
    )
