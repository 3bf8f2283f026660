"""Options that verbs share are the same for each of them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import typer
from penstock_cli import main as cli
from penstock_cli.options import Where, WhichLetters, with_groups
from typer.main import get_command
from typer.testing import CliRunner


def options(*verb: str) -> dict[str, str]:
    """Return the names of a verb's parameters and what they are called on the command line."""
    command = get_command(cli.app)
    for name in verb:
        command = command.commands[name]  # type: ignore[attr-defined]
    return {p.name or "": p.opts[0] for p in command.params}


@pytest.mark.parametrize(
    "verb",
    [
        ("dlq", "ls"),
        ("dlq", "show"),
        ("dlq", "replay"),
        ("dlq", "park"),
        ("offsets", "show"),
        ("offsets", "seek"),
        ("audit", "ls"),
        ("replay",),
        ("ledger",),
    ],
)
def test_every_verb_on_topics_takes_its_broker_in_the_same_way(verb: tuple[str, ...]) -> None:
    assert {field.name for field in fields(Where)} <= set(options(*verb))


@pytest.mark.parametrize("verb", ["show", "replay", "park"])
def test_letters_are_chosen_in_the_same_way(verb: str) -> None:
    found = options("dlq", verb)
    names = [found[field.name] for field in fields(WhichLetters)]
    assert names == ["--class", "--id", "--from", "--to"]


def test_a_group_comes_as_one_value_with_its_defaults() -> None:
    seen: list[tuple[str, Where, bool]] = []
    app = typer.Typer()

    @app.command()
    @with_groups
    def verb(name: str, where: Where, again: bool = False) -> None:
        """Do."""
        seen.append((name, where, again))

    run = CliRunner().invoke
    assert run(app, ["a"]).exit_code == 0
    assert run(app, ["b", "--port-offset", "7", "--data-dir", "x", "--again"]).exit_code == 0
    assert run(app, ["c", "--port-offset", "seven"]).exit_code == 2
    assert seen == [("a", Where(), False), ("b", Where(Path("x"), 7), True)]
