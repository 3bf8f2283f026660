"""Differences between what is wanted of broker and registry and what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from penstock_schemas.topics import Topic


class Action(Enum):
    """What a change does; in the order in which changes are applied."""

    CREATE_TOPIC = "create topic"
    ADD_PARTITIONS = "add partitions"
    ALTER_CONFIG = "alter config"
    SET_COMPATIBILITY = "set compatibility"
    REGISTER_SCHEMA = "register schema"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between what is wanted and what is there.

    Parameters
    ----------
    target
        The topic, or for schemas the subject.
    detail
        From and to, for people.
    topic, config, schema
        What to make of it: the topic wanted, the entries to set, the schema text.
    """

    action: Action
    target: str
    detail: str
    topic: Topic | None = field(default=None, repr=False)
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    schema: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.action.value} {self.target}: {self.detail}"
