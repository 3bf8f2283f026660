"""Which commit of the code a training ran with."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_commit(folder: Path) -> str:
    """Return the commit of the working copy that ``folder`` is in; empty if there is none."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
