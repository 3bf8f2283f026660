"""What the benchmark says of its runs."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import plot
import pytest
import tables
from contenders import BARE, OURS, Contender, chosen
from latency import Latency
from measure import Measured


def run(rate: float, **more: Any) -> Measured:
    facts = {"events": 9, "seconds": 1.0, "events_per_s": rate, "cpu_s_per_million": 2.0}
    return Measured(**(facts | {"rss_mib": 300.0, "startup_s": 0.5} | more))


def row(name: str, group: Any = "systems", is_ours: bool = False) -> Contender:
    return Contender(name, group, "what", "at least once", "4 fields", None, is_ours=is_ours)  # type: ignore[arg-type]


def test_a_ratio_is_taken_within_each_repeat() -> None:
    # Twice as fast each time, though the machine was slower at the second repeat.
    bare = {0: run(100), 1: run(50), 2: run(80)}
    ours = {0: run(200), 1: run(100), 2: run(160)}
    assert tables.ratio(ours, bare) == 2.0


def test_a_repeat_that_failed_on_one_side_is_left_out_of_the_ratio() -> None:
    assert tables.ratio({0: run(200), 1: run(999)}, {0: run(100)}) == 2.0
    assert math.isnan(tables.ratio({0: run(200)}, None))


def test_the_report_holds_every_row_that_ran_and_no_other() -> None:
    everyone = [row(BARE), row("quix"), row(OURS, is_ours=True)]
    results = {BARE: {0: run(100)}, OURS: {0: run(420, batch_fill=0.5)}}
    slow = {
        OURS: [
            Latency(2_000, 10, 9, 0, 2_000, 4.0, 9.0, 12.0, 0.3),
            Latency(2_000, 10, 10, 0, 2_000, 6.0, 99.0, 99.0, 0.3),
            Latency(2_000, 10, 10, 1, 2_000, 5.0, 8.0, 11.0, 0.3),
        ]
    }
    text = tables.report(everyone, results, slow, ["Left out: quix: there is no uv."])
    assert f"| {OURS} | what | at least once | 4 fields | 1 | 420 (420 to 420) | 4.20 |" in text
    assert "| 0.50 |" in text
    assert "| quix |" not in text
    assert "there is no uv" in text
    assert (
        f"| {OURS} | 2,000 | 3 | 2,000 | 5.0 (4.0 to 6.0) | 9.0 (8.0 to 99.0) "
        "| 12.0 | 0.30 | 1 | 1 |"
    ) in text


def test_the_picture_is_drawn_with_either_half_missing(tmp_path: Path) -> None:
    everyone = [row(BARE), row(OURS, is_ours=True)]
    results = {BARE: {0: run(100), 1: run(120)}, OURS: {0: run(420)}}
    slow = {OURS: [Latency(2_000, 10, 9, 0, 2_000, 4.0, 9.0, 12.0, 0.3)]}
    for number, (first, second) in enumerate([(results, slow), ({}, slow), (results, {})]):
        plot.draw(path := tmp_path / f"{number}.png", everyone, first, second)
        assert path.stat().st_size > 5_000
    plot.draw(tmp_path / "none.png", everyone, {}, {})
    assert not (tmp_path / "none.png").exists()


def test_rows_are_appended_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "results" / "throughput.csv"
    for repeat in (0, 1):
        tables.append_row(path, {"contender": BARE, "repeat": repeat}, run(100 + repeat))
    with path.open() as source:
        rows = list(csv.DictReader(source))
    assert [(r["contender"], r["repeat"], r["events_per_s"]) for r in rows] == [
        (BARE, "0", "100"),
        (BARE, "1", "101"),
    ]


def test_a_table_replaces_the_last_one_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.put_into(readme, "new\n")
    assert readme.read_text() == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="expected"):
        tables.put_into(readme, "new\n")


def test_the_readme_has_the_marks() -> None:
    text = (Path(tables.__file__).parent / "README.md").read_text()
    assert text.index(tables.BEGIN) < text.index(tables.END)


def test_contenders_are_chosen_by_part_of_their_name_and_a_wrong_one_is_named() -> None:
    everyone = [row(BARE), row(f"{BARE}, Triton"), row("quix")]
    assert [c.name for c in chosen(everyone, ["Triton", "quix"])] == [f"{BARE}, Triton", "quix"]
    assert chosen(everyone, []) == everyone
    with pytest.raises(ValueError, match="'flink' names no contender"):
        chosen(everyone, ["flink"])
