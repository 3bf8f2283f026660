"""Command line: ``python -m penstock_retrain_trigger [check-config]``."""

from __future__ import annotations

import sys

from penstock_service.command import service_command
from penstock_service.logs import configure_logging

from penstock_retrain_trigger.settings import TriggerSettings, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    service = ("penstock-retrain-trigger", "Decides about retrain requests.")
    return service_command(service, load_settings, _run, arguments)


def _run(settings: TriggerSettings) -> int:
    configure_logging("retrain-trigger", settings.log_level)
    from penstock_retrain_trigger.app import run  # slow to import: not needed for the rest

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
