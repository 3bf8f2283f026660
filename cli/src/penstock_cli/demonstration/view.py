"""The demo while it runs: a live table on a terminal, plain lines elsewhere; on stderr only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from penstock_cli import console

if TYPE_CHECKING:
    from rich.table import Table

LINE_EVERY_S: Final = 10.0
_SCORES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is to be seen now.

    Parameters
    ----------
    at_s
        Seconds since the first event.
    stage
        What is waited for.
    champion, oracle
        AUC on the newest labelled rows; NaN before there are enough.
    scores
        Drift scores against their thresholds, in words, the highest first.
    retrain
        Last step of the retraining.
    served
        Versions with their weights.
    """

    at_s: float
    stage: str
    events: int
    predictions: int
    labels: int
    champion: float
    oracle: float
    scores: Sequence[str] = field(default=())
    retrain: str = ""
    served: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """Return what is shown, by its name."""
        return [
            ("time", f"{self.at_s:,.0f} s"),
            ("waiting for", self.stage),
            ("events", f"{self.events:,}"),
            ("predictions", f"{self.predictions:,}"),
            ("labels joined", f"{self.labels:,}"),
            ("AUC champion now", _area(self.champion)),
            ("AUC oracle now", _area(self.oracle)),
            ("drift", "\n".join(self.scores[:_SCORES_SHOWN]) or "-"),
            ("retrain", self.retrain or "-"),
            ("served", self.served or "-"),
        ]

    def line(self) -> str:
        """Return it in one line."""
        parts = [f"{name} {value.splitlines()[0]}" for name, value in self.rows() if value != "-"]
        return "  " + ", ".join(parts)


class View(Protocol):
    """Where a run is shown."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how it is now."""

    def note(self, text: str) -> None:
        """Say something that stays."""


class PlainView:
    """Lines on standard error: each note, and how it is every few seconds."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def show(self, snapshot: Snapshot) -> None:
        """Print a line if it is time for one."""
        if snapshot.at_s >= self._next_s:
            self._next_s = snapshot.at_s + LINE_EVERY_S
            console.note(snapshot.line())

    def note(self, text: str) -> None:
        """Print it."""
        console.note(text)


@contextmanager
def view(title: str) -> Iterator[View]:
    """Show a run until the end of the block."""
    from rich.console import Console
    from rich.live import Live

    screen = Console(stderr=True)
    if not screen.is_terminal:
        console.note(title)
        yield PlainView()
        return
    with Live(console=screen, refresh_per_second=4) as live:

        class _LiveView:
            def show(self, snapshot: Snapshot) -> None:
                live.update(_table(title, snapshot))

            def note(self, text: str) -> None:
                live.console.print(text)

        yield _LiveView()


def _table(title: str, snapshot: Snapshot) -> Table:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    table.add_column(style="bold")
    table.add_column()
    for name, value in snapshot.rows():
        table.add_row(name, value)
    return table


def _area(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
