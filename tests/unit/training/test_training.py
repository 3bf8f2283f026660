"""Training: the exported model, its parity, its reference and its plots."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from penstock_monitoring.reference import REFERENCE_FILE, SAMPLE_FILE, SCORE, Reference
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_training.onnx_export import (
    PARITY_ROWS,
    TOLERANCE,
    ParityError,
    check_parity,
    onnx_scores,
    to_onnx,
)
from penstock_training.trainers import FittedModel, make_trainer
from penstock_training.training import LABEL, SAMPLE_ROWS, plot_files, reference_files, train
from penstock_training.training_set import TrainingSet, training_set
from sklearn.metrics import roc_auc_score

FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")


@cache
def rows() -> TrainingSet:
    return training_set(FRAUD)


@cache
def fitted(kind: str = "mlp") -> FittedModel:
    return make_trainer(kind, 7).fit(rows().matrix, rows().labels)


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


def random_rows(n: int) -> TrainingSet:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(n, 2)).astype(np.float32)
    return TrainingSet(matrix, (matrix[:, 0] > 1).astype(np.float64), ("heat", "mode=slow"))


def test_reference_counts_every_row_and_the_sample_is_bounded_and_the_same_each_time() -> None:
    some = random_rows(SAMPLE_ROWS + 500)
    scores = np.linspace(0.0, 1.0, len(some))
    files = reference_files(some, scores)
    reference = Reference.from_json(files[REFERENCE_FILE])
    assert reference.rows == len(some)
    assert [h.name for h in reference.histograms] == ["heat", "mode=slow", SCORE]
    assert all(sum(h.counts) == len(some) for h in reference.histograms)
    sample = pq.read_table(io.BytesIO(files[SAMPLE_FILE]))
    assert sample.column_names == ["heat", "mode=slow", SCORE, LABEL]
    assert sample.num_rows == SAMPLE_ROWS
    chosen = np.searchsorted(scores, sample[SCORE].to_numpy())
    assert np.array_equal(sample["heat"].to_numpy(), some.matrix[chosen, 0])
    assert np.array_equal(sample[LABEL].to_numpy(), some.labels[chosen])
    assert reference_files(some, scores) == files


def test_sample_of_a_small_set_is_the_set() -> None:
    files = reference_files(random_rows(20), np.zeros(20))
    assert pq.read_table(io.BytesIO(files[SAMPLE_FILE])).num_rows == 20


@pytest.mark.filterwarnings("default")  # matplotlib may build its font cache
def test_plots_are_pictures() -> None:
    rng = np.random.default_rng(0)
    files = plot_files((rng.random(500) < 0.05).astype(np.float64), rng.random(500))
    assert set(files) == {"roc.png", "precision_recall.png", "calibration.png"}
    assert all(content.startswith(b"\x89PNG") for content in files.values())
