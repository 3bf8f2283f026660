"""Load pipeline folders: read, validate, and say precisely what is wrong and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock_schemas.errors import ConfigError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock_pipelines.event_schema import check_against_event
from penstock_pipelines.model import PipelineConfig
from penstock_pipelines.yaml_lines import Location, YamlDocument, parse_yaml

CONFIG_FILE = "pipeline.yaml"
DEFINITIONS_FILE = "features.py"


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline folder that passed every check.

    Parameters
    ----------
    config
        The validated ``pipeline.yaml``.
    folder
        Where it came from, absolute.
    event_schema
        Text of the event's Avro schema.
    """

    config: PipelineConfig
    folder: Path
    event_schema: str


def load_pipeline(folder: Path | str) -> LoadedPipeline:
    """Load and check the pipeline in ``folder``.

    Raises
    ------
    ConfigError
        For the first few problems found: each names file, line, field, what was expected and
        what came.
    """
    root = Path(folder).resolve()
    if not (root / CONFIG_FILE).is_file():
        raise ConfigError(f"{root}: expected a pipeline folder with {CONFIG_FILE}, got none")
    document = parse_yaml(root / CONFIG_FILE)
    config = _validate(document)
    _check_folder(document, config, root)
    schema_path = root / config.event.schema_file
    try:
        event_schema = schema_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise document.error(
            ("event", "schema"),
            expected="a readable Avro schema file",
            got=f"{schema_path} ({exc})",
        ) from exc
    check_against_event(document, config, event_schema, schema_path)
    return LoadedPipeline(config, root, event_schema)


def find_pipelines(root: Path | str) -> list[Path]:
    """Return the folders under ``root`` that hold a ``pipeline.yaml``, by name.

    Raises
    ------
    ConfigError
        If ``root`` is not a folder.
    """
    base = Path(root)
    if not base.is_dir():
        raise ConfigError(f"{base}: expected a folder of pipelines, got none")
    return sorted(p.parent for p in base.glob(f"*/{CONFIG_FILE}"))


def _validate(document: YamlDocument) -> PipelineConfig:
    try:
        return PipelineConfig.model_validate(document.data)
    except ValidationError as exc:
        problems = [str(_explain(document, e)) for e in exc.errors(include_url=False)[:5]]
        raise ConfigError("\n".join(problems)) from exc


def _explain(document: YamlDocument, error: ErrorDetails) -> ConfigError:
    location: Location = error["loc"]
    kind = error["type"]
    if kind == "missing":
        return document.error(location, expected="a value (required)", got="nothing")
    if kind == "extra_forbidden":
        known = ", ".join(_known_keys(location[:-1]))
        return document.error(location, expected=f"one of the keys {known}", got="an unknown key")
    reason = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return document.error(location, expected=reason, got=_short(error["input"]))


def _short(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(location: Location) -> list[str]:
    """Return the keys allowed at ``location``, by walking the JSON Schema."""
    schema: dict[str, Any] = PipelineConfig.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.get("$defs", {})
    node = schema
    for part in location:
        node = node.get("items", {}) if isinstance(part, int) else node["properties"][part]
        for option in node.get("anyOf", [node]):
            if "$ref" in option:
                node = definitions[option["$ref"].rsplit("/", 1)[1]]
    return sorted(node.get("properties", {}))


def _check_folder(document: YamlDocument, config: PipelineConfig, root: Path) -> None:
    if config.pipeline != root.name:
        raise document.error(
            ("pipeline",), expected=f"the folder's name {root.name!r}", got=repr(config.pipeline)
        )
    if config.feast is not None and not (root / DEFINITIONS_FILE).is_file():
        raise document.error(
            ("feast",),
            expected=f"{DEFINITIONS_FILE} with the Feast definitions",
            got="no such file",
        )
    data = config.model.bootstrap.data
    if data is not None and not (root / data).is_file():
        raise document.error(
            ("model", "bootstrap", "data"),
            expected="a file in the pipeline's folder",
            got=repr(data),
        )
