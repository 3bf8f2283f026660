"""YAML with the line of every value, so that an error can point at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from penstock_schemas.errors import ConfigError

Location = tuple[str | int, ...]
"""Path to a value: keys and list indices from the top."""


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
    """Return a location as people write it.

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
    """Read a YAML file and remember where everything stands.

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
