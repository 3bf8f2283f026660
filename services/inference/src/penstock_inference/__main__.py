"""Command line: ``python -m penstock_inference [run|scale|check-config]``."""

from __future__ import annotations

import argparse
import os
import sys
import threading

from penstock_schemas.errors import ConfigError
from penstock_service.command import on_stop
from penstock_service.logs import configure_logging

from penstock_inference.replicas import want_replicas
from penstock_inference.settings import InferenceSettings, load_settings


def main(arguments: list[str] | None = None) -> int:
    """Run the service or one of its small commands; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings()
        if options.command == "check-config":
            sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
            return 0
        if options.command == "scale":
            want_replicas(settings.run_dir, options.pipeline, options.replicas)
            return 0
        return _run(settings)
    except ConfigError as exc:
        sys.stderr.write(f"penstock-inference: {exc}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-inference", description="Feature vectors in, predictions out."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("run", help="run the service (default)")
    commands.add_parser("check-config", help="print the effective settings, secrets masked")
    scale = commands.add_parser(
        "scale", help="set the replicas of a pipeline; the running service applies it in seconds"
    )
    scale.add_argument("pipeline")
    scale.add_argument("replicas", type=_replicas, help="a number, or auto: what the settings say")
    return parser


def _replicas(text: str) -> int:
    if text == "auto":
        return 0
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _run(settings: InferenceSettings) -> int:
    configure_logging("inference", settings.log_level)
    from penstock_inference.deployment import run  # slow to import: not needed for the rest

    stop = threading.Event()
    code = run(settings, stop, lambda: on_stop(stop.set))
    sys.stderr.flush()
    if code:
        os._exit(code)  # Ray's own clean-up at exit waits for a head that is gone
    return code


if __name__ == "__main__":
    sys.exit(main())
