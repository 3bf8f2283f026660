"""Command line: ``python -m penstock_retrain_trigger [check-config]``."""

from __future__ import annotations

import argparse
import signal
import sys

from penstock_schemas.errors import ConfigError
from penstock_telemetry.logs import configure_logging

from penstock_retrain_trigger.settings import load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="penstock-retrain-trigger", description="Decides about retrain requests."
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
        configure_logging("retrain-trigger", settings.log_level)
        # Until there is something to close, a stop need not wait for slow imports.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        from penstock_retrain_trigger.app import run

        return run(settings)
    except ConfigError as exc:
        sys.stderr.write(f"penstock-retrain-trigger: {exc}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
