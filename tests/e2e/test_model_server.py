"""It really is Triton that predicts, and the model that MLflow registered."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from harness.clients import ProducerApp, Published, card_rows
from harness.faults import frozen
from harness.judges import LedgerRun, triton_rows
from harness.stack import Stack
from harness.waiting import Background, eventually, holds_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FROZEN_S = 20.0
LONGEST_BATCH_S = 3.0


def test_frozen_model_server_delays_and_loses_nothing(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int, in_background: Background
) -> None:
    published = Published()
    rows = card_rows(seed, 30_000)
    publishing = in_background(lambda: cards.publish(rows, published, 1_000.0))
    eventually(lambda: fraud.count("predictions") > 0, 60, "predictions flow")
    with frozen(stack.pids("triton")):
        # What was on its way when the server stopped may still arrive.
        eventually(lambda: not _grows(fraud, LONGEST_BATCH_S), 15, "predictions stop")
        stopped_at, lag = fraud.count("predictions"), fraud.backlog("inference")
        holds_for(lambda: fraud.count("predictions") == stopped_at, FROZEN_S, "no prediction")
        assert fraud.backlog("inference") > lag, "the lag does not grow"
        assert fraud.count("features_dlq") == 0
    publishing.join()
    fraud.drain(120)
    report = fraud.report(published)
    assert report.ok, str(report)
    assert report.predictions == published.events
    assert not report.dead_letters


def _grows(fraud: LedgerRun, within_s: float) -> bool:
    before = fraud.count("predictions")
    try:
        eventually(lambda: fraud.count("predictions") > before, within_s)
    except AssertionError:
        return False
    return True


def test_model_server_counts_the_predicted_rows(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    before = triton_rows(stack.triton_http_url)
    published = cards.publish(card_rows(seed, 5_000), Published())
    fraud.drain(90)
    assert fraud.count("predictions") == published.events
    # Nothing but the stream asks now; warm-up rows were counted when the model was loaded.
    assert triton_rows(stack.triton_http_url) - before == published.events


def test_served_model_is_the_registered_one(stack: Stack, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(stack.mlflow_url)
    version = client.get_model_version_by_alias("fraud", "champion")
    mlflow.set_tracking_uri(stack.mlflow_url)
    folder = mlflow.artifacts.download_artifacts(
        f"models:/fraud/{version.version}", dst_path=str(tmp_path)
    )
    (registered,) = Path(folder).rglob("*.onnx")
    served = stack.models_dir / f"fraud__{version.version}" / "1" / "model.onnx"
    assert _sha256(served) == _sha256(registered)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
