"""What the demo shows: its view, its picture, its summary, its control pipeline."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from penstock_cli.demo import simulated, without_retraining
from penstock_cli.demonstration.joined_rows import JoinedRows
from penstock_cli.demonstration.quality import Point
from penstock_cli.demonstration.run import DemoPlan, EventSource
from penstock_cli.demonstration.stages import StageTracker
from penstock_cli.demonstration.summary import draw, ledger, summarise, table
from penstock_cli.demonstration.view import PlainView, Snapshot
from penstock_pipelines.loader import load_pipeline
from penstock_schemas.errors import ConfigError, DeliveryFailed, FatalError
from penstock_simulator.simulation import SimulationReport

FRAUD = Path(__file__).parents[3] / "pipelines" / "fraud"


def snapshot(at_s: float) -> Snapshot:
    return Snapshot(
        at_s, "drift found", 25_000, 24_900, 24_800, 0.971, float("nan"),
        scores=["error 0.02 of 0.012", "amount_log 0.01 of 0.2"],
    )  # fmt: skip


def test_lines_come_every_few_seconds_and_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = PlainView()
    for at_s in (0.0, 0.5, 9.9, 10.1, 12.0, 20.2):
        shown.show(snapshot(at_s))
    shown.note("drift found after 25 s")
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 4
    assert "events 25,000" in err
    assert "AUC champion now 0.971" in err
    assert "oracle" not in err
    assert "error 0.02 of 0.012" in err


def test_picture_is_written_even_of_an_empty_run(tmp_path: Path) -> None:
    points = [Point(i * 1000, 0.97 - 0.01 * i, 0.98) for i in range(20)]
    for name, given in (("full.png", points), ("empty.png", [])):
        path = tmp_path / "new" / name
        draw(path, "fraud", given, {"drift planted": 8000, "drift found": 11_000})
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_summary_of_a_run_that_did_not_begin_is_still_a_document() -> None:
    rows = JoinedRows()
    rows.add_truth(["a", "b"], np.array([0.1, 0.9]))
    tracker = StageTracker(DemoPlan(1, "concept", 5000, 1000.0).expectation(), 0.0)
    facts = summarise(tracker, rows, 5000, 0.0, None)
    counts = ledger(rows, events=2, dead_letters=0, labels=0)
    assert (counts.lost, counts.is_clean) == (2, False)
    assert json.loads(json.dumps(facts, allow_nan=False))["auc"]["before_drift"]["champion"] is None
    more = {"ledger": {n: getattr(counts, n) for n in counts.__slots__}, "links": {"report": None}}
    figures = table({**facts, **more, "last_phase": "after promotion", "seconds": 12.5})
    assert {"figure": "lost", "value": "2"} in figures
    assert {"figure": "AUC after promotion", "value": None} in figures


def test_control_pipeline_differs_in_retraining_only(tmp_path: Path) -> None:
    copy = without_retraining(FRAUD, tmp_path / "control")
    assert copy == (tmp_path / "control" / "fraud").resolve()
    original, control = load_pipeline(FRAUD).config, load_pipeline(copy).config
    assert not control.retrain.enabled
    same = {"retrain": original.retrain}
    assert control.model_copy(update=same) == original


def test_a_pipeline_without_a_simulator_cannot_be_shown(tmp_path: Path) -> None:
    folder = without_retraining(FRAUD, tmp_path)
    file = folder / "pipeline.yaml"
    document = yaml.safe_load(file.read_text())
    document["model"]["bootstrap"] = {"data": "rows.csv"}
    (folder / "rows.csv").write_text("label\n1\n")
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=r"model\.bootstrap\.simulator"):
        simulated(str(folder))


def test_events_flow_until_they_are_stopped() -> None:
    started = threading.Event()

    def publish(progress, on_batch, stop):  # type: ignore[no-untyped-def]
        progress(7)
        started.set()
        assert stop.wait(30)
        return SimulationReport(labels=3)

    with EventSource(publish) as source:
        assert started.wait(30)
        source.check()
        assert source.sent == 7
        assert source.stop().labels == 3


def test_an_error_of_the_producer_is_the_demos_error() -> None:
    def publish(progress, on_batch, stop):  # type: ignore[no-untyped-def]
        raise DeliveryFailed("fraud.events.v1: too large")

    with EventSource(publish) as source, pytest.raises(DeliveryFailed):
        source.stop()


def test_events_that_end_by_themselves_are_an_error() -> None:
    with EventSource(lambda *_: SimulationReport()) as source:
        source.stop()
        with pytest.raises(FatalError, match="come to their end"):
            source.check()
