"""The Typer application: global options, verbs, and errors as exit codes.

Verbs import what they need when they run, so that ``--help`` and ``status`` answer at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from penstock_schemas.errors import PenstockError, RetryableError

from penstock_cli import (
    audit,
    bench,
    config,
    console,
    demo,
    dlq,
    doctor,
    drift,
    ledger,
    model,
    offsets,
    replay,
    retrain,
    services,
    simulate,
    status,
    topics,
    up,
)
from penstock_cli.options import ExitCode, GlobalOptions, OutputFormat, Profile

app = typer.Typer(
    name="penstock",
    help="Event-driven streaming inference: real events in, real predictions out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _global(
    context: typer.Context,
    output: Annotated[
        OutputFormat, typer.Option("-o", envvar="PENSTOCK_OUTPUT", help="Format of results.")
    ] = OutputFormat.table,
    profile: Annotated[
        Profile, typer.Option("--profile", envvar="PENSTOCK_PROFILE", help="Where to act.")
    ] = Profile.local,
) -> None:
    context.obj = GlobalOptions(output, profile)


app.command("up")(up.up)
app.command("down")(up.down)
app.command("stop")(services.stop)
app.command("start")(services.start)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("replay")(replay.replay)
app.command("ledger")(ledger.ledger)
app.add_typer(topics.app, name="topics")
app.add_typer(offsets.app, name="offsets")
app.add_typer(dlq.app, name="dlq")
app.add_typer(model.app, name="model")
app.add_typer(drift.app, name="drift")
app.add_typer(retrain.app, name="retrain")
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")


def hoist_global_options(arguments: Sequence[str]) -> list[str]:
    """Move ``-o`` and ``--profile`` to the front, so that they may follow the verb.

    Examples
    --------
    >>> hoist_global_options(["status", "-o", "json", "--data-dir", "x"])
    ['-o', 'json', 'status', '--data-dir', 'x']
    """
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += [argument, *remaining]
        elif argument in ("-o", "--profile"):
            front += [argument, *([value] if (value := next(remaining, None)) is not None else [])]
        elif argument.startswith("--profile="):
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest


def reach_loopback_directly() -> None:
    """Keep a configured proxy out of what stays on this machine, for this process and its children.

    Clients of the registry, MLflow and gRPC would send 127.0.0.1 to the proxy otherwise.
    """
    for name in ("NO_PROXY", "no_proxy"):
        known = [part for part in os.environ.get(name, "").split(",") if part]
        added = [host for host in ("127.0.0.1", "localhost") if host not in known]
        os.environ[name] = ",".join([*known, *added])


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code of an error that ended a verb."""
    return ExitCode.UNREACHABLE if isinstance(error, RetryableError) else ExitCode.FAILED


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends by SystemExit."""
    given = sys.argv[1:] if arguments is None else arguments
    reach_loopback_directly()
    try:
        app(hoist_global_options(given), prog_name="penstock")
    except PenstockError as exc:
        console.note(f"penstock: {exc}")
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(ExitCode.FAILED)
    except Exception as exc:
        if os.environ.get("PENSTOCK_DEBUG"):
            traceback.print_exc()
        console.note(
            f"penstock: unexpected {type(exc).__name__}: {exc}; "
            "run again with PENSTOCK_DEBUG=1 for its origin"
        )
        sys.exit(ExitCode.FAILED)
