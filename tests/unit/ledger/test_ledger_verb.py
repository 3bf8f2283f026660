"""``penstock ledger`` over reports that the test provides."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import penstock_ledger
import pytest
from penstock_cli import main as cli
from penstock_cli.options import ExitCode
from penstock_ledger import INVARIANTS, LedgerTopics, LedgerUnreachable, ReadOptions, check
from synthetic import build
from synthetic_log import SyntheticLog

Run = Callable[..., tuple[int, str, str]]


class Broker:
    """What the verb reads, and what it was told to read."""

    def __init__(self) -> None:
        self.log: SyntheticLog | Exception = build(1)
        self.since: Any = None
        self.topics: LedgerTopics | None = None
        self.options: ReadOptions | None = None

    def __call__(self, topics: LedgerTopics, options: ReadOptions, since: Any, _: Any) -> Any:
        self.topics, self.options, self.since = topics, options, since
        if isinstance(self.log, Exception):
            raise self.log
        return check(self.log.to_store())


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Broker:
    folder = tmp_path / "pipelines" / "fraud"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("pipeline: fraud\ntopics: {events: cards}\n")
    monkeypatch.chdir(tmp_path)
    made = Broker()
    monkeypatch.setattr(penstock_ledger, "check_pipeline", made)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["ledger", "fraud", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def test_a_clean_log_exits_0_and_says_so_of_each_invariant(broker: Broker, run: Run) -> None:
    code, out, _ = run("-o", "json")
    found = json.loads(out)
    assert code == ExitCode.OK
    assert found["ok"]
    assert [row["invariant"] for row in found["invariants"]] == [one.name for one in INVARIANTS]
    assert {row["state"] for row in found["invariants"]} == {"ok"}
    assert found["records"]["aborted"]["predictions"] > 0
    assert broker.topics is not None
    assert (broker.topics.events, broker.topics.models) == ("cards", "fraud.models.v1")


@pytest.mark.usefixtures("broker")
def test_the_table_names_what_was_aborted(run: Run) -> None:
    code, out, err = run()
    assert code == ExitCode.OK
    assert "aborted records: " in out
    assert "events/s" in err


def test_a_broken_law_exits_1_with_its_offenders(broker: Broker, run: Run) -> None:
    log = build(2)
    (lost, *log.records["predictions"]) = log.records["predictions"]
    broker.log = log
    code, out, _ = run("-o", "json")
    (row,) = [r for r in json.loads(out)["invariants"] if r["invariant"] == "I1 no loss"]
    assert code == ExitCode.FAILED
    assert (row["state"], row["violations"]) == ("violated", 1)
    assert row["offenders"][0]["topic"] == "fraud.events.v1"
    assert row["offenders"][0]["partition"] == lost.partition
    code, out, _ = run()
    assert code == ExitCode.FAILED
    assert "I1 no loss: 1 offenders" in out


def test_what_cannot_be_reached_exits_3_and_is_named(broker: Broker, run: Run) -> None:
    broker.log = LedgerUnreachable("no answer")
    code, _, err = run("--bootstrap-servers", "127.0.0.1:1")
    assert code == ExitCode.UNREACHABLE
    assert "no answer" in err
    assert "127.0.0.1:1" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("start", None), ("2025-06-15T15:06:40Z", 1_750_000_000_000), ("1750000000000", 1.75e12)],
)
def test_from_is_a_time(broker: Broker, run: Run, text: str, expected: object) -> None:
    run("--from", text)
    assert broker.since == expected


def test_from_is_an_age(broker: Broker, run: Run) -> None:
    run("--from", "2h")
    ago_s = time.time_ns() / 1e9 - broker.since / 1e3
    assert 7_200 <= ago_s < 7_300


def test_from_is_an_offset(broker: Broker, run: Run) -> None:
    run("--from", "@0:5,2:7")
    assert [broker.since(partition) for partition in range(3)] == [5, None, 7]


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("text", ["yesterday", "end", "5", "1w"])
def test_another_from_is_a_usage_error(run: Run, text: str) -> None:
    code, _, err = run("--from", text)
    assert code == ExitCode.USAGE
    assert "--from" in err


def test_the_ledger_gets_the_clients_of_the_command_line(broker: Broker, run: Run) -> None:
    run()
    assert broker.options is not None
    assert broker.options.schema_text is not None
    assert broker.options.client["bootstrap.servers"]
