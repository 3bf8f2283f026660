"""A pipeline's folder: read, validated, checked against its event's Avro schema.

Every problem is a ConfigError that names file, line, field, what was expected and what came; so
the YAML is read together with the line of every value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fastavro.schema
import yaml
from penstock_schemas.avro_schema import AvroField, AvroType, InvalidSchema, parse_record
from penstock_schemas.errors import ConfigError
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from penstock_pipelines.model import Feature, PipelineConfig, Rule

CONFIG_FILE = "pipeline.yaml"
DEFINITIONS_FILE = "features.py"
NUMERIC: Final = frozenset({"int", "long", "float", "double"})
TEXT: Final = frozenset({"string", "enum"})
UNSUPPORTED: Final = frozenset(
    {"bytes", "fixed", "decimal", "uuid", "time-millis", "time-micros", "duration"}
)
"""Types refused in events, at load and not at the first event."""
TRANSFORM_TYPES: Final = {
    "identity": NUMERIC,
    "log1p": NUMERIC,
    "one_hot": TEXT,
    "hour_sin": frozenset({"timestamp-millis"}),
    "hour_cos": frozenset({"timestamp-millis"}),
    "weekday": frozenset({"timestamp-millis"}),
    "is_true": frozenset({"boolean"}),
}

Location = tuple[str | int, ...]
"""Path to a value: keys and list indices from the top."""


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """A pipeline folder that passed every check.

    Parameters
    ----------
    config
        The validated ``pipeline.yaml``.
    folder
        Absolute path of the folder.
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


@dataclass(frozen=True, slots=True)
class EventField:
    """A field of the event.

    Parameters
    ----------
    kind
        Avro type, or the logical type where there is one; "union" for a general union.
    nullable
        Whether null is allowed.
    symbols
        Symbols of an enum.
    """

    name: str
    kind: str
    nullable: bool
    symbols: tuple[str, ...] = ()


def event_fields(schema_text: str, path: Path) -> dict[str, EventField]:
    """Return the fields of an event schema by name, in order.

    Raises
    ------
    ConfigError
        If it is not an Avro record, or uses one of the `UNSUPPORTED` types.
    """
    try:
        fastavro.schema.parse_schema(json.loads(schema_text))
        record = parse_record(schema_text)
    except json.JSONDecodeError as exc:
        raise ConfigError(f"{path}:{exc.lineno}: expected JSON, got {exc.msg}") from exc
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as exc:
        raise ConfigError(f"{path}: expected an Avro schema, got {exc}") from exc
    except InvalidSchema as exc:
        raise ConfigError(f"{path}:1: expected an Avro record, got another type: {exc}") from exc
    for field in record.fields:
        for kind in _kinds(field.type):
            if kind in UNSUPPORTED:
                line = _line_of_field(schema_text, field.name)
                raise ConfigError(
                    f"{path}:{line}: {field.name}: expected a type other than "
                    f"{', '.join(sorted(UNSUPPORTED))}, got {kind}"
                )
    return {f.name: _event_field(f) for f in record.fields}


def _kinds(node: AvroType) -> Iterator[str]:
    """Return the logical type, else the kind, of a type and of all inside."""
    yield node.logical or node.kind
    for inner in (*node.branches, *(f.type for f in node.fields), node.items):
        if inner is not None:
            yield from _kinds(inner)


def _line_of_field(text: str, name: str) -> int:
    for number, line in enumerate(text.splitlines(), start=1):
        if f'"{name}"' in line:
            return number
    return 1


def _event_field(field: AvroField) -> EventField:
    only = field.type.optional or field.type
    nullable = only is not field.type or "null" in {b.kind for b in field.type.branches}
    return EventField(field.name, only.logical or only.kind, nullable, only.symbols)


@dataclass(frozen=True, slots=True)
class _Checker:
    document: YamlDocument
    fields: dict[str, EventField]
    schema_name: str

    def require(
        self, location: Location, name: str, kinds: frozenset[str], *, nullable: bool
    ) -> EventField:
        """Return the field, or raise the error that names what it should be."""
        field = self.fields.get(name)
        if field is None:
            known = ", ".join(self.fields)
            raise self.document.error(
                location, expected=f"a field of {self.schema_name} ({known})", got=repr(name)
            )
        if field.kind not in kinds or (field.nullable and not nullable):
            expected = " or ".join(sorted(kinds)) + ("" if nullable else ", not nullable")
            got = f"{name!r} of type {field.kind}" + (" (nullable)" if field.nullable else "")
            raise self.document.error(location, expected=expected, got=got)
        return field


def check_against_event(
    document: YamlDocument, config: PipelineConfig, schema_text: str, schema_path: Path
) -> None:
    """Check that every field the pipeline names is in the event, with a usable type.

    Raises
    ------
    ConfigError
        Naming file, line, field, what was expected and what came.
    """
    checker = _Checker(document, event_fields(schema_text, schema_path), schema_path.name)
    event = config.event
    checker.require(("event", "id"), event.id, frozenset({"string"}), nullable=False)
    key_kinds = frozenset({"string", "long", "int"})
    checker.require(("event", "key"), event.key, key_kinds, nullable=False)
    checker.require(("event", "time"), event.time, frozenset({"timestamp-millis"}), nullable=False)
    for index, rule in enumerate(config.rules):
        _check_rule(checker, ("rules", index), rule)
    for index, feature in enumerate(config.features):
        _check_feature(checker, ("features", index), feature)
    _check_write_back(document, config)


def _check_rule(checker: _Checker, at: Location, rule: Rule) -> None:
    anything = frozenset(f.kind for f in checker.fields.values())
    kinds = anything
    if rule.min is not None or rule.max is not None:
        kinds = NUMERIC
    elif rule.max_length is not None or rule.pattern is not None or rule.one_of is not None:
        kinds = TEXT
    field = checker.require((*at, "field"), rule.field, kinds, nullable=True)
    if rule.one_of is not None:
        _check_symbols(checker, (*at, "one_of"), field, rule.one_of)


def _check_feature(checker: _Checker, at: Location, feature: Feature) -> None:
    if feature.from_field is not None:
        kinds = TRANSFORM_TYPES[feature.transform]
        field = checker.require((*at, "from"), feature.from_field, kinds, nullable=True)
        _check_symbols(checker, (*at, "values"), field, feature.values)
    aggregate = feature.aggregate
    if aggregate is None:
        return
    without_field = aggregate.function in ("count", "since_last")
    if without_field != (aggregate.of is None):
        raise checker.document.error(
            (*at, "aggregate", "of"),
            expected="no field" if without_field else f"the field that {aggregate.function} is of",
            got=repr(aggregate.of) if aggregate.of else "nothing",
        )
    if aggregate.of is not None:
        checker.require((*at, "aggregate", "of"), aggregate.of, NUMERIC, nullable=False)


def _check_symbols(
    checker: _Checker, at: Location, field: EventField, values: tuple[str, ...]
) -> None:
    unknown = [v for v in values if v not in field.symbols]
    if field.kind == "enum" and unknown:
        symbols = ", ".join(field.symbols)
        raise checker.document.error(
            at, expected=f"symbols of the enum {field.name!r} ({symbols})", got=", ".join(unknown)
        )


def _check_write_back(document: YamlDocument, config: PipelineConfig) -> None:
    if config.feast is None or config.feast.write_back is None:
        return
    for view_field, feature in config.feast.write_back.fields.items():
        if feature not in config.feature_names:
            raise document.error(
                ("feast", "write_back", "fields", view_field),
                expected="the name of one of the features",
                got=repr(feature),
            )


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed YAML file.

    Parameters
    ----------
    path
        The file.
    data
        The plain value.
    lines
        Line (from 1) of each key or list item, by location.
    """

    path: Path
    data: Any
    lines: dict[Location, int]

    def line_of(self, location: Location) -> int:
        """Return the line of ``location``, or of its nearest parent that is there."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def error(self, location: Location, *, expected: str, got: str) -> ConfigError:
        """Build the error that names file, line, field, what was expected and what came."""
        field = dotted(location) or "(whole file)"
        where = f"{self.path}:{self.line_of(location)}"
        return ConfigError(f"{where}: {field}: expected {expected}, got {got}")


def dotted(location: Location) -> str:
    """Return a location in dotted form.

    Examples
    --------
    >>> dotted(("features", 3, "from"))
    'features[3].from'
    """
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def parse_yaml(path: Path) -> YamlDocument:
    """Read a YAML file with the line of every value.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, is empty or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({exc})") from exc
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}:1: (whole file): expected a mapping, got an empty file")
        lines: dict[Location, int] = {}
        _walk(path, node, (), lines)
        return YamlDocument(path, loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise ConfigError(f"{path}:{line}: expected YAML, got {exc.problem}") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{path}: expected YAML, got {exc}") from exc
    finally:
        loader.dispose()


def _walk(path: Path, node: yaml.Node, location: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            child = (*location, str(key.value))
            line = key.start_mark.line + 1
            if child in lines:
                raise ConfigError(
                    f"{path}:{line}: {dotted(child)}: expected each key once, "
                    f"got it again (first on line {lines[child]})"
                )
            lines[child] = line
            _walk(path, value, child, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(path, item, (*location, index), lines)
