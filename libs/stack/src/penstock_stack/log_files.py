"""Log files of components: rotation, and the end of a log for error messages."""

from __future__ import annotations

import shutil
from pathlib import Path

MAX_LOG_BYTES = 20 * 1024 * 1024
KEPT_LOGS = 3
_TAIL_BYTES = 16 * 1024


def rotate(log: Path, max_bytes: int = MAX_LOG_BYTES, keep: int = KEPT_LOGS) -> bool:
    """Copy a log that has grown too large to ``.1`` and empty it; return whether it did.

    The writer holds the file open in append mode and goes on at the new end, so it need not know.
    What it writes between the copy and the truncation is lost.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    with log.open("r+b") as stream:
        stream.truncate(0)
    return True


def tail(log: Path, lines: int = 5) -> str:
    """Return the last lines that are not empty, or an empty text."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
