"""Probe of the Ray head's container: exit 0 if its control store and its dashboard listen.

The dashboard wants a token for everything worth asking, so this only knocks.
"""

from __future__ import annotations

import socket
import sys

PORTS = (6379, 8265)
TIMEOUT_S = 2.0


def main() -> int:
    """Knock at each port of this container."""
    for port in PORTS:
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
        except OSError as exc:
            sys.stderr.write(f"ray: port {port}: {exc}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
