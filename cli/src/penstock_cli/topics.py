"""``penstock topics plan`` and ``penstock topics apply``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    OutputFormat,
    Pipelines,
    PortOffset,
    Profile,
    global_options,
    stack_config,
)

if TYPE_CHECKING:
    from penstock_registry.schema_registry import RegistryClient
    from penstock_schemas.topics import Topic
    from penstock_stack.component import StackConfig
    from penstock_streaming.admin import Change
    from penstock_streaming.settings import KafkaSettings

app = typer.Typer(help="Topics and schemas of the pipelines.", no_args_is_help=True)


@app.command("plan")
def plan(
    context: typer.Context,
    pipeline: Pipelines = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Show what apply would change, and change nothing."""
    config = stack_config(data_dir, pipeline, port_offset)
    _show(context, plan_all(config, global_options(context).profile))


@app.command("apply")
def apply(
    context: typer.Context,
    pipeline: Pipelines = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port_offset: PortOffset = None,
) -> None:
    """Create and alter topics and register schemas, as the pipelines ask."""
    config = stack_config(data_dir, pipeline, port_offset)
    _show(context, apply_all(config, global_options(context).profile))


def plan_all(config: StackConfig, profile: Profile = Profile.local) -> list[Change]:
    """Return the difference between what the pipelines ask for and what is there."""
    from penstock_streaming.admin import plan as plan_changes

    kafka, registry = _clients(config, profile)
    topics, schemas = _wanted(config)
    return plan_changes(kafka, registry, topics, schemas)


def apply_all(config: StackConfig, profile: Profile = Profile.local) -> list[Change]:
    """Create, alter and register what the pipelines ask for; return what was changed."""
    from penstock_streaming.admin import apply as apply_changes

    kafka, registry = _clients(config, profile)
    topics, schemas = _wanted(config)
    return apply_changes(kafka, registry, topics, schemas)


def _clients(config: StackConfig, profile: Profile) -> tuple[KafkaSettings, RegistryClient]:
    from penstock_registry.schema_registry import RegistryClient

    from penstock_cli.addresses import addresses

    found = addresses(profile, config)
    return found.kafka, RegistryClient(found.registry)


def _wanted(config: StackConfig) -> tuple[list[Topic], dict[str, str]]:
    """Return the topics of all pipelines, and the schema of those topics that are the user's."""
    from penstock_pipelines.loader import load_pipeline

    loaded = [load_pipeline(folder) for folder in config.pipelines]
    topics = [t for one in loaded for t in one.config.topic_names.all(one.config.partitions)]
    return topics, {one.config.topic_names.events: one.event_schema for one in loaded}


def _show(context: typer.Context, changes: list[Change]) -> None:
    rows = [
        {"action": change.action.value, "target": change.target, "detail": change.detail}
        for change in changes
    ]
    if global_options(context).output is OutputFormat.json:
        console.result_json({"changes": rows})
    elif not rows:
        console.note("nothing to change")
    else:
        console.result_table(("action", "target", "detail"), rows)
