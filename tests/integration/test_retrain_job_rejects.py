"""Candidates that must not take over, on real Kafka, registry, MLflow and Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from harness.retrain import RetrainedPipeline, loaded, pressed, shape, vibrating
from harness.waiting import background_calls, eventually
from penstock_training.trainers import FittedModel, Matrix, Trainer, Vector, make_trainer
from penstock_training_job.job import Addresses

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # MLflow warns about its own code
]


@pytest.fixture(scope="module")
def steady(
    places: Addresses, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RetrainedPipeline]:
    """Return a pipeline whose first model is right and stays champion."""
    made = RetrainedPipeline(places, tmp_path_factory.mktemp("steady"))
    made.serve(2_000, vibrating)
    yield made
    made.remove_topics()


class Shuffled(Trainer):
    """Fits on labels in a random order, from the n-th fit on."""

    kind = "shuffled"

    def __init__(self, inner: Trainer, right: int) -> None:
        super().__init__()
        self._inner = inner
        self._right = right

    def fit(self, matrix: Matrix, labels: Vector) -> FittedModel:
        self._right -= 1
        rng = np.random.default_rng(0)
        truth, first = labels, matrix[:, 0]
        # Only one feature counts: half of all shuffles happen to rank the rows as the truth does.
        while self._right < 0 and (labels is truth or np.corrcoef(labels, first)[0, 1] > -0.01):
            labels = rng.permutation(truth)
        return self._inner.fit(matrix, labels)

    def _estimator(self) -> tuple[Any, dict[str, str | int | float]]:
        raise NotImplementedError


def test_shuffled_labels_are_noticed_on_the_held_out_rows(steady: RetrainedPipeline) -> None:
    request_id = steady.request()
    before = steady.state()
    found = steady.job_with(request_id, lambda kind, seed: Shuffled(make_trainer(kind, seed), 0))
    assert steady.events(request_id)[-1] == found
    assert found.verdict == "rejected"
    assert "held-out" in found.reason
    assert found.metrics["holdout_auc"] < 0.7 < 0.9 < found.metrics["champion_holdout_auc"]
    assert found.metrics["gain_high"] < 0
    assert steady.state() == before, "it has seen traffic"


def test_shuffled_labels_are_noticed_in_the_canary(steady: RetrainedPipeline) -> None:
    request_id = steady.request()
    with steady.traffic(vibrating):
        found = steady.job_with(
            request_id, lambda kind, seed: Shuffled(make_trainer(kind, seed), 1)
        )
    assert found.verdict == "rejected"
    assert "canary rows" in found.reason
    assert found.metrics["canary_auc"] < 0.7 < 0.9 < found.metrics["champion_auc"]
    state = steady.state()
    assert shape(state)[0] == ("1", "champion", 100, "serving")
    assert ("", 0, "retired") in [s[1:] for s in shape(state)]
    assert not loaded(steady.places, f"{steady.name}__{found.model_version}")


def test_no_labels_no_promotion(places: Addresses, tmp_path: Path) -> None:
    sections = """
retrain: {min_labels: 1500, max_labels: 3000, label_wait_s: 60}
rollout: {canary_percent: 50, min_canary_rows: 300, max_wait_s: 6}
"""
    pipeline = RetrainedPipeline(places, tmp_path, sections)
    pipeline.serve(1_800, pressed)
    request_id = pipeline.request()
    with pipeline.traffic(pressed, labelled=False):
        found = pipeline.job_with(request_id, make_trainer)
    assert found.verdict == "rejected"
    assert "0 labelled canary rows" in found.reason
    assert found.metrics["holdout_auc"] > 0.95
    assert shape(pipeline.state()) == [("1", "champion", 100, "serving"), ("2", "", 0, "retired")]
    pipeline.remove_topics()


@pytest.mark.faults
def test_job_without_rows_fails_with_the_reason_last(places: Addresses, tmp_path: Path) -> None:
    sections = "\nretrain: {min_labels: 1500, label_wait_s: 0.5}\n"
    pipeline = RetrainedPipeline(places, tmp_path, sections)
    pipeline.serve(100, pressed)
    request_id = pipeline.request()
    done = pipeline.job(request_id)
    assert done.returncode == 1
    assert "100 labelled rows within 0.5 s" in done.stderr.splitlines()[-1]
    assert [e.state for e in pipeline.events(request_id)] == ["requested", "started"]
    again = pipeline.job("nobody-asked")
    assert again.returncode == 1
    assert "no request 'nobody-asked'" in again.stderr.splitlines()[-1]
    pipeline.remove_topics()


@pytest.mark.faults
def test_cancelled_request_takes_its_canary_back(steady: RetrainedPipeline) -> None:
    request_id = steady.request()
    ends: list[CompletedProcess[str]] = []

    def canary_runs() -> bool:
        return any(v.state == "canary" for v in steady.state().versions)

    with background_calls() as start:
        call = start(lambda: ends.append(steady.job(request_id)))
        eventually(canary_runs, 90, "a canary", unless=lambda: ended_early(ends))
        (requested, *_) = steady.events(request_id)
        steady.tell(requested.followed_by("cancelled", steady.now(), reason="by the test"))
        call.join()
    assert ends[0].returncode == 1
    assert "cancelled: by the test" in ends[0].stderr.splitlines()[-1]
    assert shape(steady.state())[0] == ("1", "champion", 100, "serving")
    assert [e.state for e in steady.events(request_id)][-1] == "cancelled"


def ended_early(ends: list[CompletedProcess[str]]) -> None:
    assert not ends, ends[0].stderr
