"""``penstock bench`` finds its scripts, passes on what it is given, and ends as they end."""

from __future__ import annotations

from pathlib import Path

import pytest
from penstock_cli import main as cli

SCRIPT = "import sys\nprint(sys.argv[1:], file=open('given', 'w'))\nsys.exit({code})\n"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a benchmark that only notes what it is given."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("bench_inference.py", "bench_loop.py"):
        (tmp_path / "benchmarks" / name).write_text(SCRIPT.format(code=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_are_passed_on_and_the_exit_code_comes_back(clone: Path) -> None:
    given = ("--quick", "--part", "costs", "--only", "router", "--repeats", "2", "-o", "json")
    assert run("bench", "inference", *given) == 1
    assert (clone / "given").read_text().strip() == str(
        [
            *("--quick", "--json", "--part", "costs", "--only", "router", "--repeats", "2"),
            *("--port-offset", "20000"),
        ]
    )


def test_the_loop_takes_its_seeds(clone: Path) -> None:
    assert run("bench", "loop", "--seed", "3", "--seed", "4", "--port-offset", "7") == 1
    assert (clone / "given").read_text().strip() == str(["--port-offset", "7", "--seeds", "3", "4"])


def test_a_wrong_part_is_a_usage_error(clone: Path) -> None:
    assert run("bench", "inference", "--part", "everything") == 2
    assert not (clone / "given").exists()
