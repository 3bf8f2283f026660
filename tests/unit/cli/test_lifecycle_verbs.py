"""drift, retrain and model on the command line, over logs that the test provides."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from penstock_cli import drift as drift_verb
from penstock_cli import lifecycle_log
from penstock_cli import main as cli
from penstock_cli.options import ExitCode
from penstock_schemas.records import (
    DriftEvent,
    DriftWindow,
    ModelVersion,
    RetrainEvent,
    RoutingState,
)
from penstock_schemas.topics import PipelineTopics

ALARM = DriftEvent(
    "e1", "ep1", "fraud", 1_750_000_000_000, "adwin", "concept", "error", 0.026, 0.012, 0.008,
    "fraud", "1", DriftWindow("fraud.observations.v1", 0, 10, 20, 5, 1_740_000_000_000, 0),
    "sha256:0", "detected",
)  # fmt: skip
ASKED = RetrainEvent.request("r1", "fraud", 1_750_000_000_000, "drift", reason="error tripled")
PAGE = """
penstock_drift_score{pipeline="fraud",subject="amount_log"} 0.05
penstock_drift_threshold{pipeline="fraud",subject="amount_log"} 0.2
penstock_drift_score{pipeline="fraud",subject="error"} 0.026
penstock_drift_threshold{pipeline="fraud",subject="error"} 0.012
penstock_drift_score{pipeline="churn",subject="tenure"} 9.0
penstock_drift_score{pipeline="fraud",subject="home_risk"} NaN
"""


@dataclass
class Log:
    """What the topics hold, and what a verb appends."""

    drift: list[DriftEvent] = field(default_factory=list)
    retrain: list[RetrainEvent] = field(default_factory=list)
    state: RoutingState | None = None
    topics: PipelineTopics = field(default_factory=lambda: PipelineTopics("fraud"))

    def drift_events(self) -> list[DriftEvent]:
        return self.drift

    def retrain_events(self) -> list[RetrainEvent]:
        return self.retrain

    def routing(self) -> RoutingState | None:
        return self.state

    def append(self, event: RetrainEvent) -> None:
        self.retrain.append(event)

    def wait_for(self, request_id: str, is_last: Any, timeout_s: float) -> RetrainEvent:
        asked = self.retrain[-1]
        follow = self.after(asked)
        return next(e for e in follow if is_last(e))

    def after(self, asked: RetrainEvent) -> list[RetrainEvent]:
        return [asked.followed_by("accepted", 1), asked.followed_by("failed", 2, reason="no rows")]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    folder = tmp_path / "pipelines" / "fraud"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("pipeline: fraud\n")
    monkeypatch.chdir(tmp_path)
    provided = Log()
    monkeypatch.setattr(lifecycle_log, "open_log", lambda *_: provided)
    return provided


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_request_writes_one_request_and_prints_its_id(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--reason", "new merchants", "--since", "2025-06-15T15:06:40Z")
    code, out, _ = run(capsys, "retrain", "request", "fraud", *arguments)
    (event,) = log.retrain
    assert code == ExitCode.OK
    assert out.strip() == event.request_id == event.event_id
    assert (event.state, event.source, event.reason) == ("requested", "cli", "new merchants")
    assert event.data_since == 1_750_000_000_000
    assert event.actor


def test_a_request_with_a_wrong_time_is_a_usage_error(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "retrain", "request", "fraud", "--since", "yesterday")
    assert code == ExitCode.USAGE
    assert "--since" in err
    assert log.retrain == []


@pytest.mark.parametrize(
    ("state", "facts", "expected"),
    [
        ("finished", {"verdict": "promoted"}, ExitCode.OK),
        ("finished", {"verdict": "rejected"}, ExitCode.FAILED),
        ("failed", {}, ExitCode.FAILED),
        ("suppressed", {"reason": "cooldown"}, ExitCode.REFUSED),
    ],
)
def test_a_request_that_is_waited_for_ends_with_its_verdict(
    log: Log,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    facts: dict[str, Any],
    expected: ExitCode,
) -> None:
    monkeypatch.setattr(log, "after", lambda asked: [asked.followed_by(state, 5, **facts)])
    code, out, err = run(capsys, "retrain", "request", "fraud", "--wait", "-o", "json")
    assert code == expected
    assert json.loads(out)["state"] == state
    assert state in err


def test_ls_shows_reasons_and_verdicts(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"canary_auc": 0.951, "champion_auc": 0.66}
    done = ASKED.followed_by("finished", 9, verdict="promoted", model_version="2", metrics=metrics)
    log.retrain = [ASKED, done]
    code, out, _ = run(capsys, "retrain", "ls", "fraud", "-o", "json")
    (row,) = json.loads(out)["requests"]
    assert code == ExitCode.OK
    assert (row["state"], row["verdict"], row["metrics"]) == ("finished", "promoted", metrics)
    _, table, _ = run(capsys, "retrain", "ls", "fraud")
    (head, line) = table.splitlines()
    assert "error tripled" in line
    assert "0.9510 vs champion 0.6600" in line
    assert head.split()[0] == "REQUESTED_AT"


def test_ls_shortens_long_reasons_in_its_table_only(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "drift of the error " * 20
    log.retrain = [ASKED, ASKED.followed_by("suppressed", 9, reason=why)]
    _, table, _ = run(capsys, "retrain", "ls", "fraud")
    assert len(table.splitlines()[1]) < 200
    assert "drift of the error" in table
    assert "…" in table
    _, out, _ = run(capsys, "retrain", "ls", "fraud", "-o", "json")
    assert json.loads(out)["requests"][0]["reason"] == why


def test_cancel_is_a_dry_run_unless_told(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.retrain = [ASKED]
    code, out, err = run(capsys, "retrain", "cancel", "fraud", "-o", "json")
    assert code == ExitCode.OK
    assert json.loads(out) == {"request_id": "r1", "state": "requested", "cancelled": False}
    assert "--yes" in err
    assert log.retrain == [ASKED]


def test_cancel_writes_the_end_of_the_request(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.retrain = [ASKED]
    code, out, _ = run(capsys, "retrain", "cancel", "fraud", "r1", "--yes", "-o", "json")
    assert code == ExitCode.OK
    assert json.loads(out)["cancelled"]
    event = log.retrain[-1]
    assert (event.event_id, event.request_id, event.state) == ("r1.cancelled", "r1", "cancelled")
    assert event.source == "drift"
    code, _, err = run(capsys, "retrain", "cancel", "fraud", "--yes")
    assert code == ExitCode.FAILED
    assert "nothing to cancel" in err


def test_model_ls_shows_every_version(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    versions = (
        ModelVersion("fraud", "1", "fraud__1", "champion", 90, "sha256:aa", "run1", "serving"),
        ModelVersion("fraud", "2", "fraud__2", "challenger", 10, "sha256:bb", "run2", "canary"),
    )
    log.state = RoutingState("fraud", 4, 1_750_000_000_000, "retrain-job/r1", versions)
    code, out, _ = run(capsys, "model", "ls", "fraud", "-o", "json")
    document = json.loads(out)
    assert code == ExitCode.OK
    assert (document["revision"], document["updated_by"]) == (4, "retrain-job/r1")
    shown = [(v["version"], v["alias"], v["weight"], v["state"]) for v in document["versions"]]
    assert shown == [("1", "champion", 90, "serving"), ("2", "challenger", 10, "canary")]
    assert {"digest", "run_id"} <= set(document["versions"][0])


def test_model_ls_before_the_first_model_says_so(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "model", "ls", "fraud")
    assert (code, out) == (ExitCode.FAILED, "")
    assert "no model yet" in err


def test_drift_status_shows_scores_and_alarms_with_their_report(
    log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_verb, "metrics_page", lambda *_: PAGE)
    log.drift = [ALARM]
    report = Path("state/reports/fraud/ep1.html").resolve()
    report.parent.mkdir(parents=True)
    report.write_text("<html>")
    code, out, _ = run(capsys, "drift", "status", "fraud", "--data-dir", "state", "-o", "json")
    document = json.loads(out)
    assert code == ExitCode.OK
    subjects = [row["subject"] for row in document["scores"]]
    assert subjects == ["error", "amount_log", "home_risk"]
    assert document["scores"][0]["threshold"] == 0.012
    assert [row["kind"] for row in document["scores"]] == ["concept", "data", "data"]
    assert document["scores"][2]["score"] is None
    assert drift_verb.score_words(document["scores"][0]) == "error 0.026 of 0.012"
    (alarm,) = document["alarms"]
    assert alarm["report"] == str(report)
    assert (alarm["statistic"], alarm["window"]["rows"]) == (0.026, 5)
    code, table, _ = run(capsys, "drift", "status", "fraud", "--data-dir", "state")
    assert "amount_log" in table


def test_drift_status_without_the_service_still_shows_the_alarms(
    log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_verb, "metrics_page", lambda *_: None)
    log.drift = [ALARM]
    code, out, err = run(capsys, "drift", "status", "fraud", "-o", "json")
    assert code == ExitCode.UNREACHABLE
    assert [a["report"] for a in json.loads(out)["alarms"]] == [None]
    assert "penstock status" in err
