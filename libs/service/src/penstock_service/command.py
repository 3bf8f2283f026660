"""The command line that services share: ``run`` (default) and ``check-config``."""

from __future__ import annotations

import argparse
import signal
import sys
from _thread import start_new_thread
from collections.abc import Callable
from typing import TypeVar

from penstock_schemas.errors import ConfigError
from pydantic_settings import BaseSettings

Settings = TypeVar("Settings", bound=BaseSettings)
_STOPS = (signal.SIGTERM, signal.SIGINT)


def service_command(
    service: tuple[str, str],
    load_settings: Callable[[], Settings],
    run: Callable[[Settings], int],
    arguments: list[str] | None,
) -> int:
    """Run a service, or print its effective settings with secrets masked; return the exit code.

    Parameters
    ----------
    service
        Name of the program, and what it does in a few words.
    load_settings, run
        A ConfigError of either is printed and ends the command with 1.
    arguments
        The command line; the process's own if None.
    """
    name, description = service
    parser = argparse.ArgumentParser(prog=name, description=description)
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
        # Until there is something to drain, a stop need not wait for slow imports.
        for number in _STOPS:
            signal.signal(number, lambda *_: sys.exit(0))
        return run(settings)
    except ConfigError as exc:
        sys.stderr.write(f"{name}: {exc}\n")
        return 1


def on_stop(action: Callable[[], object]) -> None:
    """Have SIGTERM and SIGINT do this, in a thread of its own.

    A handler runs wherever the main thread is, also where that holds the lock that ``action``
    needs, such as that of the event it waits for.
    """
    for number in _STOPS:
        signal.signal(number, lambda *_: start_new_thread(action, ()))
