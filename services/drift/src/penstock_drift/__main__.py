"""Command line: ``python -m penstock_drift [check-config]``."""

from __future__ import annotations

import sys
import threading

from penstock_service.command import on_stop, service_command
from penstock_service.logs import configure_logging

from penstock_drift.settings import DriftSettings, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    service = ("penstock-drift", "Labels joined, drift found.")
    return service_command(service, load_settings, _run, arguments)


def _run(settings: DriftSettings) -> int:
    configure_logging("drift", settings.log_level)
    from penstock_drift.service import run  # slow to import: not needed for the rest

    stop = threading.Event()
    on_stop(stop.set)
    return run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
