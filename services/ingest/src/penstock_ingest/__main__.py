"""Command line: ``python -m penstock_ingest [check-config]``."""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from penstock_schemas.errors import ConfigError
from penstock_telemetry.logs import configure_logging

from penstock_ingest.settings import load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    parser = argparse.ArgumentParser(prog="penstock-ingest", description="Events in, features out.")
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
        configure_logging("ingest", settings.log_level)
        from penstock_ingest.app import run  # slow to import: not needed to check settings

        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        return run(settings, stop)
    except ConfigError as exc:
        sys.stderr.write(f"penstock-ingest: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
