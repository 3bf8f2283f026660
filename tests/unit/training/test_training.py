from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from penstock_features.history import history
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_simulator.generators import Drift
from penstock_simulator.transactions import CardTransactions
from penstock_training.onnx_export import (
    PARITY_ROWS,
    TOLERANCE,
    ParityError,
    check_parity,
    onnx_scores,
    to_onnx,
)
from penstock_training.trainers import FittedModel, make_trainer
from penstock_training.training import train
from penstock_training.training_set import TrainingSet, training_set
from sklearn.metrics import roc_auc_score

FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")
START_MS = 1_750_000_000_000


@cache
def rows() -> TrainingSet:
    return training_set(FRAUD)


@cache
def fitted(kind: str = "mlp") -> FittedModel:
    return make_trainer(kind, 7).fit(rows().matrix, rows().labels)


def stream(seed: int, n: int, drift: Drift | None = None):  # type: ignore[no-untyped-def]
    """Return what the stream sees of new events: matrix, labels, oracle."""
    generator = CardTransactions(seed)
    batch = generator.generate(n, START_MS, generator.events_per_s, drift)
    known = generator.profiles().set_index("account_id").loc[batch.keys]
    online = {f"account_profile:{c}": known[c].to_numpy() for c in known.columns}
    return history(FRAUD.config, batch.columns, online), batch.labels, batch.oracle


@pytest.mark.parametrize("drift", [None, Drift("concept", 0)], ids=["usual", "changed"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_feature_gives_fraud_away(seed: int, drift: Drift | None) -> None:
    matrix, labels, oracle = stream(seed, 30_000, drift)
    aucs = [roc_auc_score(labels, matrix[:, i]) for i in range(matrix.shape[1])]
    best = max(max(a, 1 - a) for a in aucs)
    assert best <= 0.80
    assert roc_auc_score(labels, oracle) >= 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_champion_is_close_to_the_oracle_and_falls_with_the_concept(seed: int) -> None:
    matrix, labels, oracle = stream(seed, 30_000)
    before = roc_auc_score(labels, fitted().scores(matrix))
    assert before >= roc_auc_score(labels, oracle) - 0.04
    matrix, labels, oracle = stream(seed, 30_000, Drift("concept", 0))
    after = roc_auc_score(labels, fitted().scores(matrix))
    assert after <= before - 0.10
    again = make_trainer("mlp", 1).fit(matrix[:10_000], labels[:10_000])
    recovered = roc_auc_score(labels[10_000:], again.scores(matrix[10_000:]))
    assert recovered >= roc_auc_score(labels[10_000:], oracle[10_000:]) - 0.05


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
def test_exported_model_answers_like_the_native_one(kind: str) -> None:
    model = fitted(kind)
    exported = to_onnx(model).SerializeToString()
    assert len(rows()) >= PARITY_ROWS
    assert check_parity(model, exported, rows().matrix) <= TOLERANCE


def test_exported_model_has_the_one_signature() -> None:
    graph = to_onnx(fitted()).graph
    assert [i.name for i in graph.input] == ["features"]
    assert [o.name for o in graph.output] == ["scores"]
    for value, width in ((graph.input[0], 30), (graph.output[0], 1)):
        kind = value.type.tensor_type
        assert kind.elem_type == onnx.TensorProto.FLOAT
        assert kind.shape.dim[0].dim_value == 0
        assert kind.shape.dim[1].dim_value == width


def test_scores_are_the_probability_of_fraud() -> None:
    exported = to_onnx(fitted()).SerializeToString()
    scores = onnx_scores(exported, rows().matrix)
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0
    assert roc_auc_score(rows().labels, scores) > 0.95


def test_parity_check_notices_another_model() -> None:
    other = make_trainer("mlp", 8).fit(rows().matrix, rows().labels)
    with pytest.raises(ParityError, match="differs"):
        check_parity(fitted(), to_onnx(other).SerializeToString(), rows().matrix)


def test_parity_check_needs_no_ten_thousand_real_rows() -> None:
    exported = to_onnx(fitted()).SerializeToString()
    assert check_parity(fitted(), exported, rows().matrix[:50]) <= TOLERANCE


def test_training_is_deterministic() -> None:
    again = make_trainer("mlp", 7).fit(rows().matrix, rows().labels)
    assert np.array_equal(again.scores(rows().matrix), fitted().scores(rows().matrix))
    assert training_set(FRAUD).sha256 == rows().sha256


def test_digest_depends_on_every_value() -> None:
    labels = rows().labels.copy()
    labels[-1] = 1.0 - labels[-1]
    assert TrainingSet(rows().matrix, labels, rows().names).sha256 != rows().sha256


@pytest.mark.parametrize("labels", [np.zeros(10), np.ones(10), np.arange(10.0)])
def test_labels_of_one_class_or_of_three_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="labels 0 and 1"):
        make_trainer("logistic").fit(np.zeros((10, 2), np.float32), labels)


def test_unknown_trainer_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mlp, logistic"):
        make_trainer("forest")


@pytest.fixture
def tiny(tmp_path: Path) -> LoadedPipeline:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "event.avsc").write_text(
        """{"type": "record", "name": "Reading", "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "machine", "type": "long"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "heat", "type": "double"},
        {"name": "mode", "type": ["null", "string"], "default": null}]}"""
    )
    (folder / "pipeline.yaml").write_text(
        """
pipeline: tiny
event: {key: machine}
features:
  - {name: heat, from: heat}
  - {name: mode, from: mode, transform: one_hot, values: [slow, fast], missing: impute}
  - {name: seen, aggregate: {function: count, half_life_s: 60}}
model:
  kind: logistic
  bootstrap: {data: rows.csv, label: broken}
"""
    )
    rng = np.random.default_rng(0)
    lines = ["machine,event_time,heat,mode,broken"]
    for i in rng.permutation(400):
        heat = rng.normal()
        when = f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}Z"
        mode = ("slow", "fast", "")[i % 3]
        lines.append(f"{i % 5},{when},{heat:.6f},{mode},{int(heat + rng.normal() > 0)}")
    (folder / "rows.csv").write_text("\n".join(lines))
    return load_pipeline(folder)


def test_pipeline_made_of_a_folder_alone_trains_from_its_file(tiny: LoadedPipeline) -> None:
    record = train(tiny)
    assert record.metrics["auc"] > 0.7
    assert record.dataset["features"] == ["heat", "mode=slow", "mode=fast", "seen"]
    assert record.dataset["rows"] == 400
    seen = training_set(tiny).matrix[:, 3]
    assert list(seen[:5]) == [0.0] * 5  # ordered by time: the first of each machine
    assert (seen[5:] > 0).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: broken", "label: wrong", "expected a column 'wrong'"),
        ("heat,mode,broken", "warmth,mode,broken", "expected a column 'heat'"),
        ("machine,event_time", "event_time,machine", "column 'machine'"),
    ],
)
def test_file_that_does_not_fit_names_the_column(
    tiny: LoadedPipeline, old: str, new: str, message: str
) -> None:
    for name in ("pipeline.yaml", "rows.csv"):
        path = tiny.folder / name
        path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        train(load_pipeline(tiny.folder))
