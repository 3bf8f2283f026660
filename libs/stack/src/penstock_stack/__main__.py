"""Run the infrastructure alone in the foreground: ``python -m penstock_stack DIR OFFSET [NAME…]``.

For tests and for work on one service; ``penstock up`` runs everything.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from penstock_schemas.errors import PenstockError

from penstock_stack.artifacts import cache_dir
from penstock_stack.catalogue import infrastructure
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints
from penstock_stack.supervisor import interruption, supervised


def main(arguments: list[str]) -> int:
    """Bring the named components up (all by default) and keep them up until SIGTERM or Ctrl-C."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    data_dir, offset, names = Path(arguments[0]).resolve(), int(arguments[1]), arguments[2:]
    endpoints = Endpoints.from_environment(os.environ, offset)
    config = StackConfig(data_dir, cache_dir(os.environ), endpoints, port_offset=offset)
    components = [c for c in infrastructure(config) if not names or c.name in names]
    try:
        with interruption() as interrupted, supervised(config, components) as supervisor:
            supervisor.start()
            if supervisor.wait_ready(interrupted):
                supervisor.record_ready()
                logging.info("ready: %s", {c.name: c.endpoint for c in components})
                supervisor.supervise(interrupted)
    except PenstockError as exc:
        logging.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
