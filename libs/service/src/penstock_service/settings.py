"""Reading a service's settings from the environment, and refusing names that mean nothing.

pydantic-settings refuses an unknown nested name but ignores an unknown top-level one: a mistyped
variable would go unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from penstock_schemas.errors import ConfigError
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsError

Settings = TypeVar("Settings", bound=BaseSettings)


def load_settings(
    kind: type[Settings],
    stack_names: frozenset[str] = frozenset(),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings of a service.

    Parameters
    ----------
    kind
        The settings class; its ``env_prefix`` says which variables are its own.
    stack_names
        Variables under that prefix that are another's, such as the embedded stack's ports.
    environment
        Names to check; the process's own if None.

    Raises
    ------
    ConfigError
        Naming each setting that is unknown or out of range.
    """
    prefix = str(kind.model_config.get("env_prefix", ""))
    names = os.environ if environment is None else environment
    known = _variables(kind)
    own = (n for n in names if n.upper().startswith(prefix) and n.upper() not in stack_names)
    # What stands before two underscores is the field; what follows is pydantic's to check.
    unknown = sorted(n for n in own if n.upper().partition("__")[0] not in known)
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        return kind()
    except SettingsError as exc:
        raise ConfigError(f"{prefix}…: {exc}; lists and nested values are JSON") from exc
    except ValidationError as exc:
        lines = [
            f"{_named(prefix, kind, error['loc'])}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise ConfigError("; ".join(lines)) from exc


def _variables(kind: type[BaseSettings]) -> list[str]:
    """Return the top-level variables; a field with an alias has no other name."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    aliases = ((name, info.validation_alias) for name, info in kind.model_fields.items())
    return [alias if isinstance(alias, str) else prefix + name.upper() for name, alias in aliases]


def _named(prefix: str, kind: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    """Return the variable of an error's place; nested fields follow two underscores."""
    first, *inner = map(str, location)
    if first in _variables(kind):
        return first
    return prefix + "__".join((first, *inner)).upper()
