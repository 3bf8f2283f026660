"""Reads a Dockerfile: enough of the language for what ours use."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals and its text, continuation lines joined."""

    name: str
    text: str

    @property
    def flags(self) -> list[str]:
        """The ``--flag=value`` words before the rest."""
        return [w for w in self.text.split() if w.startswith("--")]

    @property
    def words(self) -> list[str]:
        """What is left without the flags."""
        return [w for w in self.text.split() if not w.startswith("--")]


@dataclass(slots=True)
class Stage:
    """One ``FROM`` and what follows it."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def of(self, name: str) -> list[Instruction]:
        """Return the instructions called ``name``."""
        return [i for i in self.instructions if i.name == name]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The stages of a Dockerfile, and the arguments before the first."""

    stages: tuple[Stage, ...]
    arguments: dict[str, str]

    @property
    def all(self) -> list[Instruction]:
        """Every instruction of every stage."""
        return [i for stage in self.stages for i in stage.instructions]

    def chain(self, target: str | None = None) -> list[Stage]:
        """Return the stages that make up an image, first to last; the last stage's by default."""
        named = {stage.name: stage for stage in self.stages}
        stage = named[target] if target else self.stages[-1]
        chain = [stage]
        while chain[0].base in named:
            chain.insert(0, named[chain[0].base])
        return chain

    def environment(self, target: str | None = None) -> dict[str, str]:
        """Return what an image sets, as its processes see it."""
        found: dict[str, str] = {}
        for stage in self.chain(target):
            for instruction in stage.of("ENV"):
                found |= dict(w.split("=", 1) for w in shlex.split(instruction.text))
        return found

    def last(self, name: str, target: str | None = None) -> str:
        """Return the text of the instruction that counts; empty if there is none."""
        texts = [i.text for stage in self.chain(target) for i in stage.of(name)]
        return texts[-1] if texts else ""

    def command(self, target: str | None = None) -> list[str]:
        """Return what the container starts."""
        parts = (self.last("ENTRYPOINT", target), self.last("CMD", target))
        return [word for text in parts if text for word in json.loads(text)]


def parse(text: str) -> Dockerfile:
    """Read the text of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for line in filter(None, map(str.strip, re.sub(r"\\\n\s*", " ", lines).splitlines())):
        name, _, rest = line.partition(" ")
        if name.upper() == "FROM":
            base, _, stage = re.sub(r"--platform=\S+\s+", "", rest).partition(" AS ")
            stages.append(Stage(_filled(base.strip(), arguments), stage.strip()))
        elif not stages:
            key, _, value = rest.partition("=")
            arguments[key] = value
        else:
            stages[-1].instructions.append(Instruction(name.upper(), rest.strip()))
    return Dockerfile(tuple(stages), arguments)


def read(path: Path) -> Dockerfile:
    """Read a Dockerfile."""
    return parse(path.read_text("utf-8"))


def _filled(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda m: arguments.get(m.group(1), ""), text)
