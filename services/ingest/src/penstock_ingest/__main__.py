"""Command line: ``python -m penstock_ingest [check-config]``."""

from __future__ import annotations

import sys
import threading

from penstock_service.command import on_stop, service_command
from penstock_service.logs import configure_logging

from penstock_ingest.settings import IngestSettings, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return its exit code."""
    service = ("penstock-ingest", "Events in, features out.")
    return service_command(service, load_settings, _run, arguments)


def _run(settings: IngestSettings) -> int:
    configure_logging("ingest", settings.log_level)
    from penstock_ingest.app import run  # slow to import: not needed for the rest

    stop = threading.Event()
    on_stop(stop.set)
    return run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
