"""The demo's picture: AUC over time, with what happened when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from penstock_cli.demonstration.quality import Point

_SIZE_INCHES: Final = (10.0, 4.5)
_DPI: Final = 120
_LOWEST: Final = 0.5


def draw(path: Path, title: str, points: Sequence[Point], marks: dict[str, int]) -> None:
    """Write the picture as PNG.

    Parameters
    ----------
    points
        AUC of the champion and the oracle by event.
    marks
        Event at which something happened, by its name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    events = [p.event for p in points]
    axes.plot(events, [p.oracle for p in points], color="0.6", label="oracle (knows the truth)")
    axes.plot(events, [p.champion for p in points], color="tab:blue", label="champion served")
    colours = ("tab:red", "tab:orange", "tab:purple", "tab:green")
    for (name, event), colour in zip(marks.items(), colours, strict=False):
        axes.axvline(event, color=colour, linestyle="--", linewidth=1.2, label=name)
    axes.set_xlabel("event")
    axes.set_ylabel("AUC of the last 5,000 labelled events")
    axes.set_ylim(min([_LOWEST, *(p.champion for p in points)]) - 0.02, 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize="small", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
