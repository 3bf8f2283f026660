"""Results as Markdown and as CSV rows."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from contenders import ALONE, BARE, Contender
from latency import Latency
from measure import Measured

VERSIONS: Final = (
    *("confluent-kafka", "fastavro", "onnxruntime", "numpy", "pyarrow", "numba"),
    *("ray", "tritonclient"),
)
BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"
Runs = dict[int, Measured]
"""By repeat."""


def machine() -> str:
    """Return what the figures were measured on and with, in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    )


@cache
def commit() -> str:
    """Return the commit that was measured; the rows of a run make it no other one."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def heading() -> str:
    """Return when, what and on what was measured."""
    return f"Measured {time.strftime('%Y-%m-%d')} at {commit()}: {machine()}."


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median of at least one value, with the smallest and the largest.

    Examples
    --------
    >>> spread([3.0, 1.0, 2000.0], 0)
    '3 (1 to 2,000)'
    """
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def ratio(runs: Runs, base: Runs | None) -> float:
    """Return the median of the ratios of events/s within each repeat; NaN without a base.

    Examples
    --------
    >>> fast = {0: Measured(9, 1, 300, 1, 1, 1), 1: Measured(9, 1, 500, 1, 1, 1)}
    >>> slow = {0: Measured(9, 1, 100, 1, 1, 1), 1: Measured(9, 1, 100, 1, 1, 1)}
    >>> ratio(fast, slow)
    4.0
    """
    pairs = [(runs[n], base[n]) for n in runs if n in base] if base else []
    if not pairs:
        return math.nan
    return statistics.median(a.events_per_s / b.events_per_s for a, b in pairs)


def throughput_table(
    contenders: Iterable[Contender], results: Mapping[str, Runs], base: str
) -> list[str]:
    """Return a table: medians, spread, and the ratio to ``base`` within each repeat."""
    against = "bare" if base == BARE else "control"
    lines = [
        f"| contender | what | delivery | output | n | events/s, median (min to max) | x {against} "
        "| CPU s per 1 M | RSS MiB | batch fill | start s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for contender in contenders:
        runs = results.get(contender.name)
        if not runs:
            continue
        all_runs = list(runs.values())
        rates = [r.events_per_s for r in all_runs]
        lines.append(
            f"| {contender.name} | {contender.about} | {contender.delivery} | {contender.output} "
            f"| {len(rates)} "
            f"| {spread(rates, 0)} "
            f"| {_number(ratio(runs, results.get(base)), 2)} "
            f"| {_median(all_runs, 'cpu_s_per_million', 1)} | {_median(all_runs, 'rss_mib', 0)} "
            f"| {_median(all_runs, 'batch_fill', 2)} | {_median(all_runs, 'startup_s', 1)} |"
        )
    return lines


def latency_table(results: Mapping[str, Sequence[Latency]]) -> list[str]:
    """Return a table with a row per contender and rate, medians over its runs."""
    lines = [
        "| contender | offered/s | n | reached/s | p50 ms, median (min to max) "
        "| p99 ms, median (min to max) | p99.9 ms | cores used | missing | twice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        for rate in sorted({r.rate for r in runs}):
            same = [r for r in runs if r.rate == rate]
            lines.append(
                f"| {name} | {rate:,} | {len(same)} | {_median(same, 'achieved', 0)} "
                f"| {_spread(same, 'p50_ms')} | {_spread(same, 'p99_ms')} "
                f"| {_median(same, 'p999_ms', 1)} | {_median(same, 'cpu_cores', 2)} "
                f"| {sum(r.sent - r.got for r in same):,} "
                f"| {sum(r.duplicates for r in same):,} |"
            )
    return lines


def report(
    contenders: Sequence[Contender],
    results: Mapping[str, Runs],
    latencies: Mapping[str, Sequence[Latency]],
    notes: Sequence[str],
) -> str:
    """Return everything in Markdown."""
    lines = [heading(), ""]
    lines += [line for note in notes for line in (note, "")]
    for group, title, base in (
        ("systems", "Throughput", BARE),
        ("costs", "What each part costs", ALONE),
    ):
        rows = throughput_table([c for c in contenders if c.group == group], results, base)
        if len(rows) > 2:
            lines += [f"### {title}", "", *rows, ""]
    if latencies:
        lines += ["### Latency, event creation to committed read", "", *latency_table(latencies)]
    return "\n".join(lines).rstrip() + "\n"


def as_json(
    results: Mapping[str, Runs],
    latencies: Mapping[str, Sequence[Latency]],
    faults: Sequence[str],
) -> str:
    """Return every run and what failed."""
    runs = [
        {"contender": name, "repeat": repeat, **asdict(one)}
        for name, repeats in results.items()
        for repeat, one in repeats.items()
    ]
    slow = [{"contender": name, **asdict(one)} for name, ran in latencies.items() for one in ran]
    return json.dumps({"throughput": runs, "latency": slow, "faults": faults})


def append_row(path: Path, facts: Mapping[str, Any], run: Measured | Latency) -> None:
    """Append a run to a CSV file."""
    figures = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(run).items()}
    row = {
        "commit": commit(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "cores": os.cpu_count(),
        **facts,
        **figures,
    }
    path.parent.mkdir(exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as sink:
        writer = csv.DictWriter(sink, row, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def put_into(readme: Path, text: str) -> None:
    """Replace what lies between the two marks of a file.

    Raises
    ------
    ValueError
        If the marks are not there.
    """
    old = readme.read_text(encoding="utf-8")
    head, begin, rest = old.partition(BEGIN)
    _, end, foot = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: expected {BEGIN} and {END}")
    readme.write_text(f"{head}{BEGIN}\n{text}{END}{foot}", encoding="utf-8")


def show(run: object, name: str) -> None:
    """Print a run's figures to stderr as soon as they are there."""
    print(f"{time.strftime('%H:%M:%S')} {name}: {run}", file=sys.stderr, flush=True)


def _spread(runs: Sequence[Any], name: str) -> str:
    values = _values(runs, name)
    return spread(values, 1) if values else "-"


def _median(runs: Sequence[Any], name: str, digits: int) -> str:
    values = _values(runs, name)
    return _number(statistics.median(values), digits) if values else "-"


def _values(runs: Sequence[Any], name: str) -> list[float]:
    return [value for run in runs if not math.isnan(value := getattr(run, name))]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"
