"""``penstock doctor``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    Pipelines,
    PortOffset,
    global_options,
    stack_config,
)


def doctor(
    context: typer.Context,
    pipeline: Pipelines = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Find misconfigurations before they bite; changes nothing."""
    from penstock_stack.doctor import examine

    from penstock_cli.up import components

    config = stack_config(data_dir, pipeline, port_offset)
    findings = examine(config, components(config))
    if global_options(context).output is OutputFormat.json:
        console.result_json({"findings": [asdict(finding) for finding in findings]})
    else:
        rows = [asdict(finding) for finding in findings]
        console.result_table(("check", "level", "message", "fix"), rows)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(ExitCode.FAILED)
