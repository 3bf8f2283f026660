from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from penstock_features.aggregates import AggregateLayout, AggregateTable, pack_rows
from penstock_ingest import writeback
from penstock_ingest.metrics import IngestMetrics
from penstock_ingest.writeback import WriteBackThread
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import ConfigError, FeatureStoreUnavailable


class Writer:
    def __init__(self) -> None:
        self.rows: dict[str, dict[str, object]] = {}
        self.error: Exception | None = None

    def write(self, view: str, frame: pd.DataFrame) -> None:
        if self.error is not None:
            raise self.error
        assert view == "activity"
        for row in frame.to_dict("records"):
            self.rows[str(row["account_id"])] = row


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def thread(config: PipelineConfig, writer: Writer, metrics: IngestMetrics) -> WriteBackThread:
    return make(config, writer, metrics)


def make(config: PipelineConfig, writer: Writer, metrics: IngestMetrics) -> WriteBackThread:
    assert config.feast is not None
    assert config.feast.write_back is not None
    layout = AggregateLayout(config)
    return WriteBackThread(config.feast, config.feast.write_back, layout, writer, metrics)


def state(config: PipelineConfig, amounts: dict[str, float], time: int = 5000) -> AggregateTable:
    table = AggregateTable(config)
    n = len(amounts)
    table.update(list(amounts), np.full(n, time), np.array(list(amounts.values())).reshape(n, 1))
    return table


def offer(thread: WriteBackThread, table: AggregateTable) -> None:
    thread.offer(*pack_rows(table, np.arange(len(table))))


def total(counter: object) -> float:
    return counter._value.get()  # type: ignore[attr-defined]


def test_latest_values_and_state_are_written(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig, metrics: IngestMetrics
) -> None:
    offer(thread, state(config, {"a": 1.0, "b": 2.0}))
    table = state(config, {"a": 7.0})
    offer(thread, table)
    assert thread.write()
    assert set(writer.rows) == {"a", "b"}
    assert writer.rows["a"]["mean"] == 7.0
    assert writer.rows["b"]["count"] == 1.0
    assert writer.rows["a"]["s"] == table.vectors(np.array([0]))[0].tolist()
    assert writer.rows["a"]["event_timestamp"] == pd.Timestamp(5000, unit="ms", tz="UTC")
    assert total(metrics.written) == 2


def test_outage_keeps_the_values_and_newer_ones_win(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig, metrics: IngestMetrics
) -> None:
    writer.error = FeatureStoreUnavailable("away")
    offer(thread, state(config, {"a": 1.0, "b": 2.0}))
    assert not thread.write()
    assert total(metrics.failed) == 2
    offer(thread, state(config, {"a": 3.0}))
    writer.error = None
    assert thread.write()
    assert (writer.rows["a"]["mean"], writer.rows["b"]["mean"]) == (3.0, 2.0)


def test_write_that_can_never_succeed_is_not_repeated(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig, metrics: IngestMetrics
) -> None:
    writer.error = ValueError("no such field")
    offer(thread, state(config, {"a": 1.0}))
    assert not thread.write()
    writer.error = None
    assert thread.write()
    assert writer.rows == {}
    assert total(metrics.failed) == 1


def test_waiting_entities_are_bounded(
    thread: WriteBackThread,
    writer: Writer,
    config: PipelineConfig,
    metrics: IngestMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writeback, "MAX_WAITING", 3)
    offer(thread, state(config, {"a": 1.0, "b": 1.0}))
    offer(thread, state(config, {"a": 2.0, "c": 2.0, "d": 2.0}))
    assert thread.write()
    assert {key: row["mean"] for key, row in writer.rows.items()} == {"a": 2.0, "b": 1.0, "c": 2.0}
    assert total(metrics.dropped) == 1


@pytest.mark.parametrize("time", [-(2**53), 2**53])
def test_odd_event_times_can_be_written(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig, time: int
) -> None:
    offer(thread, state(config, {"a": 1.0}, time))
    assert thread.write()
    assert "a" in writer.rows


def test_forgotten_history_is_written_as_zero(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig
) -> None:
    offer(thread, state(config, {"a": math.nan}))
    assert thread.write()
    assert writer.rows["a"]["mean"] == 0.0


def test_close_writes_what_is_waiting(
    thread: WriteBackThread, writer: Writer, config: PipelineConfig
) -> None:
    thread.start()
    offer(thread, state(config, {"a": 1.0}))
    thread.close()
    assert "a" in writer.rows


def test_field_that_is_no_aggregate_stops_the_start(
    config: PipelineConfig, writer: Writer, metrics: IngestMetrics
) -> None:
    assert config.feast is not None
    assert config.feast.write_back is not None
    section = config.feast.write_back.model_copy(update={"fields": {"x": "amount_log"}})
    feast = config.feast.model_copy(update={"write_back": section})
    with pytest.raises(ConfigError, match="amount_log"):
        make(config.model_copy(update={"feast": feast}), writer, metrics)
