"""``penstock model`` on real Kafka, registry, MLflow and Triton: live shares, and the way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.retrain import RetrainedPipeline, loaded, shape
from penstock_cli import main as cli
from penstock_cli.options import ExitCode
from penstock_streaming.audit import AuditLog
from penstock_training.publish import MODEL_FILE
from penstock_training.tracking import CHALLENGER, Tracker
from penstock_training.training import train
from penstock_training_job.job import Addresses

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # MLflow warns about its own code
]


@pytest.fixture
def pipeline(
    places: Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RetrainedPipeline]:
    """Return a pipeline with version 1 as champion and version 2 registered, never served."""
    made = RetrainedPipeline(places, tmp_path)
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": places.kafka,
        "REGISTRY__URL": places.registry,
        "MLFLOW_URL": places.mlflow,
        "TRITON_GRPC": places.triton_grpc,
        "MODELS_DIR": str(places.models_dir),
        "ACTOR": "ann",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"PENSTOCK_{name}", value)
    Tracker(places.mlflow, made.name).log(train(made.loaded), "c0ffee", alias=CHALLENGER)
    yield made
    made.remove_topics()


def test_a_version_goes_from_canary_to_champion_and_back_in_one_command(
    pipeline: RetrainedPipeline, places: Addresses, capsys: pytest.CaptureFixture[str]
) -> None:
    def model(verb: str, *options: str, expect: ExitCode = ExitCode.OK) -> Any:
        head = ("--profile", "prod", "-o", "json", "model", verb, str(pipeline.loaded.folder))
        with pytest.raises(SystemExit) as ended:
            cli.main([*head, *options])
        captured = capsys.readouterr()
        assert (ended.value.code or ExitCode.OK) == expect, captured.err
        return json.loads(captured.out) if captured.out else captured.err

    two = f"{pipeline.name}__2"
    assert model("canary", "2", "--percent", "20")["dry_run"]
    assert (pipeline.state(), loaded(places, two)) == (pipeline.first, False)

    model("canary", "2", "--percent", "20", "--yes")
    assert loaded(places, two)
    assert shape(pipeline.state()) == [
        ("1", "champion", 80, "serving"),
        ("2", "challenger", 20, "canary"),
    ]
    model("canary", "2", "--percent", "60", "--yes")
    assert shape(pipeline.state())[0] == ("1", "champion", 40, "serving")

    model("promote", "2", "--yes")
    assert shape(pipeline.state()) == [
        ("2", "champion", 100, "serving"),
        ("1", "previous", 0, "draining"),
    ]
    champion = Tracker(places.mlflow, pipeline.name).champion()
    assert champion is not None
    assert champion.version == "2"

    model("rollback", "--yes")
    assert shape(pipeline.state()) == [("1", "champion", 100, "serving"), ("2", "", 0, "draining")]
    assert pipeline.state().updated_by == "cli:ann"
    assert "no previous champion" in model("rollback", "--yes", expect=ExitCode.REFUSED)

    model("shadow", "2", "--yes")
    assert shape(pipeline.state())[1] == ("2", "challenger", 0, "shadow")
    assert "knows 1, 2" in model("promote", "7", "--yes", expect=ExitCode.REFUSED)
    (places.models_dir / two / MODEL_FILE).write_bytes(b"not what was registered")
    assert "digest is" in model("promote", "2", "--yes", expect=ExitCode.REFUSED)
    assert shape(pipeline.state())[0] == ("1", "champion", 100, "serving")

    events = [
        e
        for e in AuditLog(pipeline.kafka, pipeline.registry).events()
        if e.subject == pipeline.name
    ]
    assert [(e.action, e.outcome) for e in events if e.phase == "end"] == [
        ("model.canary", "succeeded"),
        ("model.canary", "succeeded"),
        ("model.promote", "succeeded"),
        ("model.rollback", "succeeded"),
        ("model.shadow", "succeeded"),
    ]
