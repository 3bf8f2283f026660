"""Command line: ``python -m penstock_drift [check-config]``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from penstock_schemas.errors import ConfigError
from penstock_telemetry.logs import configure_logging

from penstock_drift.settings import load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="penstock-drift", description="Labels joined, drift found."
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["run", "check-config"],
        default="run",
        help="run (default), or print the effective settings with secrets masked and exit",
    )
    command = parser.parse_args(arguments).command
    try:
        settings = load_settings()
        if command == "check-config":
            sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
            return 0
        configure_logging("drift", settings.log_level)
        # Until there is something to drain, a stop need not wait for slow imports.
        _on_stop(lambda *_: sys.exit(0))
        from penstock_drift.app import run

        stop = threading.Event()
        _on_stop(lambda *_: stop.set())
        return run(settings, stop)
    except ConfigError as exc:
        sys.stderr.write(f"penstock-drift: {exc}\n")
        return 1


def _on_stop(action: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, action)


if __name__ == "__main__":
    sys.exit(main())
