"""A running pipeline follows an edit of pipeline.yaml, and survives a wrong one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from penstock_pipelines.loader import load_pipeline
from penstock_pipelines.model import live_settings
from penstock_pipelines.watch import PipelineWatch

FRAUD = Path(__file__).parents[3] / "pipelines" / "fraud"


class Edited:
    """A copy of the fraud pipeline, watched, with what was counted."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(FRAUD, folder)
        self.file = folder / "pipeline.yaml"
        self.text = self.file.read_text()
        self.results: list[str] = []
        self.watch = PipelineWatch(load_pipeline(folder), self.results.append)
        self.settle()

    def write(self, added: str) -> None:
        self.file.write_text(f"{self.text}\n{added}\n")

    def settle(self) -> None:
        """Look twice: a file that has changed is read when it changes no more."""
        self.watch.config()
        self.watch.config()


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    return Edited(tmp_path / "fraud")


def test_an_edit_is_taken_over(edited: Edited) -> None:
    assert edited.watch.current.batching.max_batch_rows == 4096
    edited.write("batching: {max_batch_rows: 100, commit_interval_ms: 20, deadline_ms: 500}")
    edited.settle()
    found = edited.watch.current
    assert (found.batching.max_batch_rows, found.batching.deadline_ms) == (100, 500)
    assert live_settings(found.batching, found.limits)["commit_interval_s"] == 0.02
    assert edited.results == ["applied"]


def test_a_file_that_is_still_being_written_is_not_read(edited: Edited) -> None:
    edited.write("batching: {max_batch_rows: 100}")
    assert edited.watch.config().batching.max_batch_rows == 4096
    edited.write("batching: {max_batch_rows: 1000}")
    assert edited.watch.config().batching.max_batch_rows == 4096
    assert edited.watch.config().batching.max_batch_rows == 1000
    assert edited.results == ["applied"]


def test_a_wrong_edit_changes_nothing_and_is_told_once_with_its_line(
    edited: Edited, caplog: pytest.LogCaptureFixture
) -> None:
    edited.write("batching: {max_batch_rows: -1}")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            edited.settle()
    assert edited.watch.current.batching.max_batch_rows == 4096
    assert edited.results == ["refused"]
    [line] = [record.getMessage() for record in caplog.records]
    place = len(edited.text.splitlines()) + 2
    assert f"pipeline.yaml:{place}: batching.max_batch_rows: expected" in line
    edited.write("batching: {max_batch_rows: 7}")
    edited.settle()
    assert edited.watch.current.batching.max_batch_rows == 7


def test_a_file_that_is_away_for_a_moment_changes_nothing(edited: Edited) -> None:
    edited.file.unlink()
    edited.settle()
    edited.write("")
    edited.settle()
    assert edited.results == []


def test_what_needs_a_restart_is_said(edited: Edited, caplog: pytest.LogCaptureFixture) -> None:
    edited.text = edited.text.replace("threshold: 0.5", "threshold: 0.7")
    edited.write("")
    with caplog.at_level(logging.WARNING):
        edited.settle()
    assert "need a restart: threshold" in caplog.text


def test_a_look_at_an_unchanged_file_reads_nothing(
    edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_pipelines.watch.load_pipeline", pytest.fail)
    edited.settle()
    edited.settle()
