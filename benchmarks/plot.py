"""The results as a picture: throughput with its spread, and latency by offered rate."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contenders import Contender
from latency import Latency
from tables import Runs

OURS: Final = "#1f77b4"
THEIRS: Final = "#b0b0b0"
SHADES: Final = ("#9ecae1", "#3182bd", "#08306b")


def draw(
    path: Path,
    contenders: Sequence[Contender],
    results: Mapping[str, Runs],
    latencies: Mapping[str, Sequence[Latency]],
) -> None:
    """Write the picture; nothing where there is nothing to show."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [c for c in contenders if c.group == "systems" and results.get(c.name)]
    panels = bool(rows) + bool(latencies)
    if not panels:
        return
    figure, axes = pyplot.subplots(1, panels, figsize=(7.5 * panels, 5.2), squeeze=False)
    if rows:
        _throughput(axes[0][0], rows, results)
    if latencies:
        _latency(axes[0][-1], latencies)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _throughput(axis: Any, rows: Sequence[Contender], results: Mapping[str, Runs]) -> None:
    rates = {c.name: [r.events_per_s for r in results[c.name].values()] for c in rows}
    ordered = sorted(rows, key=lambda c: statistics.median(rates[c.name]))
    names = [f"{c.name} ({c.output})" for c in ordered]
    middles = [statistics.median(rates[c.name]) for c in ordered]
    spread = [
        [m - min(rates[c.name]) for c, m in zip(ordered, middles, strict=True)],
        [max(rates[c.name]) - m for c, m in zip(ordered, middles, strict=True)],
    ]
    colours = [OURS if c.is_ours else THEIRS for c in ordered]
    axis.barh(names, middles, xerr=spread, color=colours, capsize=3)
    for at, (middle, more) in enumerate(zip(middles, spread[1], strict=True)):
        axis.text(middle + more, at, f"  {middle / 1000:,.0f} k", va="center", fontsize=8)
    axis.margins(x=0.16)
    axis.xaxis.set_major_formatter(lambda rate, _: f"{rate / 1000:,.0f} k")
    axis.set_xlabel("events/s visible to read_committed (median, min to max)")
    axis.set_title("Kafka → model → Kafka")


def _latency(axis: Any, latencies: Mapping[str, Sequence[Latency]]) -> None:
    from matplotlib.ticker import NullFormatter

    bars = [
        (f"{name}, {rate:,}/s", [r for r in runs if r.rate == rate])
        for name, runs in latencies.items()
        for rate in sorted({r.rate for r in runs})
    ]
    fields = ("p999_ms", "p99_ms", "p50_ms")
    for field, shade in zip(fields, SHADES, strict=True):
        values = [statistics.median(getattr(r, field) for r in runs) for _, runs in bars]
        label = field.removesuffix("_ms").replace("p999", "p99.9")
        axis.barh([name for name, _ in bars], values, color=shade, label=label)
    axis.set_xscale("log")
    axis.set_xlim(left=1)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("event creation to committed read, ms")
    axis.set_title("Latency")
    axis.legend()
