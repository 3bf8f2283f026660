"""``penstock model`` over a routing state and a registry that the test provides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from penstock_cli import lifecycle_log, rollout
from penstock_cli import main as cli
from penstock_cli.options import ExitCode
from penstock_cli.rollout import ModelVersions
from penstock_schemas.errors import BrokerUnavailable
from penstock_schemas.records import AuditEvent, ModelVersion, RetrainEvent, RoutingState
from penstock_schemas.topics import PipelineTopics
from penstock_training.deployment import ModelServer
from penstock_training.tracking import RegisteredModel, digest_of

MODELS = {"1": b"one", "2": b"two", "3": b"three"}


def version(number: str, alias: str, weight: int, state: str) -> ModelVersion:
    digest = digest_of(MODELS[number])
    return ModelVersion("fraud", number, f"fraud__{number}", alias, weight, digest, "run", state)


ONE = version("1", "previous", 0, "retired")
TWO = version("2", "champion", 100, "serving")


@dataclass
class Audit:
    written: list[AuditEvent] = field(default_factory=list)

    def ensure(self) -> None:
        pass

    def write(self, event: AuditEvent) -> None:
        self.written.append(event)


@dataclass
class Log:
    """The topics of a pipeline as far as the verbs touch them."""

    state: RoutingState | None
    retrain: list[RetrainEvent] = field(default_factory=list)
    audit: Audit = field(default_factory=Audit)
    topics: PipelineTopics = field(default_factory=lambda: PipelineTopics("fraud"))
    rival: Callable[[], None] = lambda: None

    def routing(self) -> RoutingState | None:
        return self.state

    def retrain_events(self) -> list[RetrainEvent]:
        return self.retrain

    def route(self, make: Callable[[RoutingState | None], RoutingState]) -> RoutingState:
        self.rival()
        self.state = make(self.state)
        return self.state

    @property
    def served(self) -> list[tuple[str, str, int, str]]:
        assert self.state is not None
        return [(v.version, v.alias, v.weight, v.state) for v in self.state.versions]


@dataclass
class Registry:
    """What MLflow holds, what the model server was told, in their order."""

    told: list[str] = field(default_factory=list)

    def versions(self) -> list[str]:
        return list(MODELS)

    def version(self, number: str) -> RegisteredModel:
        return RegisteredModel("fraud", number, "run", "c0ffee", MODELS[number])

    def set_alias(self, number: str, alias: str) -> None:
        self.told.append(f"{alias} {number}")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    monkeypatch.setattr(rollout, "Tracker", lambda *_: found)
    monkeypatch.setattr(rollout, "load", lambda _, name: found.told.append(f"load {name}"))
    monkeypatch.setattr(rollout, "deploy", lambda *a: found.told.append(f"deploy {a[-1].version}"))
    return found


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Log:
    folder = tmp_path / "pipelines" / "fraud"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("pipeline: fraud\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_ACTOR", "ann")
    found = Log(RoutingState("fraud", 4, 0, "retrain-job/r0", (TWO, ONE)))
    monkeypatch.setattr(lifecycle_log, "open_log", lambda *_: found)
    server = ModelServer("127.0.0.1:1", tmp_path / "models")
    versions = ModelVersions(folder, "http://mlflow", server)
    monkeypatch.setattr(rollout, "open_versions", lambda *_: versions)
    monkeypatch.setattr("penstock_pipelines.loader.load_pipeline", lambda _: None)
    publish(tmp_path, "1", MODELS["1"])
    return found


def publish(root: Path, number: str, content: bytes) -> None:
    file = root / "models" / f"fraud__{number}" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["-o", "json", "model", *arguments])
    captured = capsys.readouterr()
    out = json.loads(captured.out) if captured.out else None
    return int(ended.value.code or 0), out, captured.err


def test_rollback_is_one_command(
    log: Log, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "rollback", "fraud", "--yes")
    assert (code, out["revision"], out["changed"]) == (ExitCode.OK, 5, True)
    assert log.served == [("1", "champion", 100, "serving"), ("2", "", 0, "draining")]
    assert log.state is not None
    assert log.state.updated_by == "cli:ann"
    assert registry.told == ["load fraud__1", "champion 1"]
    begin, end = log.audit.written
    assert (begin.action, begin.actor, begin.subject) == ("model.rollback", "ann", "fraud")
    assert (end.outcome, end.counts) == ("succeeded", {"revision": 5})
    assert "penstock status" in err


@pytest.mark.parametrize(
    ("verb", "then"),
    [
        (("rollback", "fraud"), ("1", "champion", 100)),
        (("promote", "fraud", "3"), ("3", "champion", 100)),
        (("canary", "fraud", "3", "--percent", "5"), ("2", "champion", 95)),
        (("shadow", "fraud", "3"), ("2", "champion", 100)),
    ],
)
def test_without_yes_it_is_shown_and_nothing_is_touched(
    log: Log,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    verb: tuple[str, ...],
    then: tuple[str, str, int],
) -> None:
    before = log.state
    code, out, err = run(capsys, *verb)
    assert (code, out["dry_run"], out["revision"]) == (ExitCode.OK, True, 4)
    first = out["after"][0]
    assert (first["version"], first["alias"], first["weight"]) == then
    assert "--yes" in err
    assert (log.state, registry.told, log.audit.written) == (before, [], [])


def test_a_version_that_never_served_is_tried_before_it_answers(
    log: Log, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = run(capsys, "canary", "fraud", "3", "--percent", "5", "--yes")
    assert code == ExitCode.OK
    assert log.served[:2] == [("2", "champion", 95, "serving"), ("3", "challenger", 5, "canary")]
    assert registry.told == ["deploy 3"]
    run(capsys, "canary", "fraud", "3", "--percent", "0", "--yes")
    assert log.served[:2] == [("2", "champion", 100, "serving"), ("3", "", 0, "retired")]


def test_what_is_so_already_writes_nothing(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "promote", "fraud", "2", "--yes")
    assert (code, out["changed"]) == (ExitCode.OK, False)
    assert log.audit.written == []
    assert "nothing to do" in err


def test_an_unknown_version_is_refused(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "promote", "fraud", "9", "--yes")
    assert code == ExitCode.REFUSED
    assert "no version '9'; MLflow knows 1, 2, 3" in err


def test_a_file_that_is_not_the_registered_one_is_refused(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, "3", b"something else")
    for verb in (("promote", "fraud", "3"), ("shadow", "fraud", "3", "--yes")):
        code, _, err = run(capsys, *verb)
        assert code == ExitCode.REFUSED
        assert f"digest is {digest_of(b'something else')}" in err
    assert log.served[0] == ("2", "champion", 100, "serving")


def test_mlflow_holding_another_model_than_was_routed_is_refused(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    assert log.state is not None
    odd = replace(version("3", "", 0, "retired"), digest="sha256:routed")
    log.state = replace(log.state, versions=(TWO, odd))
    code, _, err = run(capsys, "promote", "fraud", "3", "--yes")
    assert code == ExitCode.REFUSED
    assert "names sha256:routed" in err
    assert [e.outcome for e in log.audit.written] == ["", "failed"]


def test_a_job_with_its_canary_out_is_not_disturbed(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = RetrainEvent.request("r0", "fraud", 0, "drift")
    log.retrain = [asked, asked.followed_by("accepted", 1)]
    canary = version("3", "challenger", 10, "canary")
    assert log.state is not None
    log.state = replace(log.state, versions=(replace(TWO, weight=90), ONE, canary))
    code, _, err = run(capsys, "rollback", "fraud", "--yes")
    assert code == ExitCode.REFUSED
    assert "penstock retrain cancel fraud r0" in err


def test_a_state_that_was_changed_meanwhile_is_left_alone(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    def rival() -> None:
        assert log.state is not None
        log.state = replace(log.state, revision=5, updated_by="cli:bob")

    log.rival = rival
    code, _, err = run(capsys, "rollback", "fraud", "--yes")
    assert code == ExitCode.REFUSED
    assert "cli:bob (revision 5)" in err
    assert log.served[0] == ("2", "champion", 100, "serving")


def test_another_revision_than_the_one_named_is_refused(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "rollback", "fraud", "--revision", "3", "--yes")
    assert code == ExitCode.REFUSED
    assert "it is retrain-job/r0 (revision 4)" in err
    assert run(capsys, "rollback", "fraud", "--revision", "4", "--yes")[0] == ExitCode.OK


def test_mlflow_away_does_not_hold_up_a_rollback(
    log: Log,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: str) -> None:
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(registry, "set_alias", away)
    code, _, err = run(capsys, "rollback", "fraud", "--yes")
    assert code == ExitCode.OK
    assert "MLflow was not told" in err


def test_a_model_server_away_is_no_refusal(
    log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: str) -> None:
        raise BrokerUnavailable("no answer")

    monkeypatch.setattr(rollout, "load", away)
    code, _, _ = run(capsys, "rollback", "fraud", "--yes")
    assert code == ExitCode.UNREACHABLE
    assert log.served[0] == ("2", "champion", 100, "serving")
    assert [e.outcome for e in log.audit.written] == ["", "failed"]
