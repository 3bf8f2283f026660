"""Services that somebody has stopped by hand: they stay stopped until they are started by hand.

One empty file per service beside the supervisor's state: the command line writes it, the supervisor
looks for it, and it outlives both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FOLDER: Final = "held"


def hold(run_dir: Path, service: str) -> None:
    """Have the supervisor stop a service, and leave it stopped."""
    folder = run_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / service).touch()


def release(run_dir: Path, service: str) -> None:
    """Have the supervisor start a service again."""
    (run_dir / _FOLDER / service).unlink(missing_ok=True)


def is_held(run_dir: Path, service: str) -> bool:
    """Tell whether a service is to stay stopped."""
    return (run_dir / _FOLDER / service).exists()


def held(run_dir: Path) -> list[str]:
    """Return the services that are to stay stopped."""
    folder = run_dir / _FOLDER
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
