"""Make the token that Ray wants from its callers: ``python make_token.py FILE``.

A file that is there is kept, so that what runs stays trusted.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def main(target: Path) -> int:
    """Write the token, readable by this user alone; whole or not at all."""
    if target.exists():
        return 0
    aside = target.with_name(f".{target.name}")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    aside.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
