from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from harness.ingest import Online, avro, batch, event
from penstock_features.aggregates import AggregateTable, unpack_into
from penstock_ingest.handler import IngestHandler
from penstock_ingest.metrics import IngestMetrics
from penstock_ingest.pipeline import IngestPipeline
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import BrokerUnavailable, FeatureStoreUnavailable
from penstock_streaming.handler import OutputColumns


class Log:
    """A changelog topic: keeps what was committed, latest per partition and key."""

    topic = "tiny.ingest-state.v1"

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config
        self.records: dict[tuple[int, bytes], bytes] = {}
        self.is_away = False

    def commit(self, outputs: Sequence[OutputColumns]) -> None:
        for o in outputs:
            assert o.topic == self.topic
            for key, value, partition in zip(o.keys, o.values, o.partitions, strict=True):
                self.records[int(partition), key or b""] = value or b""

    def restore(self, partitions: Sequence[int], deadline_s: float) -> dict[int, AggregateTable]:
        if self.is_away:
            raise BrokerUnavailable("away")
        tables = {}
        for partition in partitions:
            tables[partition] = AggregateTable(self._config)
            mine = {k: v for (p, k), v in self.records.items() if p == partition}
            unpack_into(tables[partition], list(mine), list(mine.values()))
        return tables


class Sink:
    def __init__(self) -> None:
        self.got: dict[bytes, bytes] = {}

    def offer(self, keys: Sequence[bytes], payloads: Sequence[bytes]) -> None:
        self.got.update(zip(keys, payloads, strict=True))


@pytest.fixture
def log(config: PipelineConfig) -> Log:
    return Log(config)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def handler(
    pipeline: IngestPipeline, log: Log, sink: Sink, metrics: IngestMetrics
) -> IngestHandler:
    made = IngestHandler(pipeline, log, sink, metrics)
    made.assigned([0, 1], 1.0)
    return made


def run(handler: IngestHandler, events: range, partition: int = 0) -> list[bytes | None]:
    messages = batch(
        [avro(event(i)) for i in events],
        partitions=[partition] * len(events),
        first_offset=events.start,
    )
    handled = handler.submit(messages).result(1.0)
    return [value for output in handled.outputs for value in output.values]


def commit(handler: IngestHandler, log: Log) -> None:
    log.commit(handler.changelog())
    handler.committed()


def test_state_changes_with_the_result_and_once(handler: IngestHandler) -> None:
    pending = handler.submit(batch([avro(event(1))]))
    assert pending.done()
    assert handler.changelog() == []
    first = pending.result(1.0)
    assert pending.result(1.0) is first
    (change,) = handler.changelog()
    assert list(change.keys) == [b"k1"]
    assert handler.changelog() == []


def test_changelog_goes_to_the_partition_of_the_events(handler: IngestHandler) -> None:
    run(handler, range(3), partition=0)
    run(handler, range(1), partition=1)
    changes = {tuple(c.partitions): sorted(k or b"" for k in c.keys) for c in handler.changelog()}
    assert changes == {(0, 0, 0): [b"k0", b"k1", b"k2"], (1,): [b"k0"]}


def test_restored_run_equals_an_unbroken_one(
    handler: IngestHandler, pipeline: IngestPipeline, log: Log, sink: Sink, metrics: IngestMetrics
) -> None:
    unbroken = IngestHandler(pipeline, Log(log._config), None, metrics)
    unbroken.assigned([0], 1.0)
    want = run(unbroken, range(20)) + run(unbroken, range(20, 40))
    got = run(handler, range(20))
    commit(handler, log)
    successor = IngestHandler(pipeline, log, sink, metrics)
    successor.assigned([0], 1.0)
    assert got + run(successor, range(20, 40)) == want


def test_rollback_returns_to_the_committed_state(handler: IngestHandler, log: Log) -> None:
    run(handler, range(10))
    commit(handler, log)
    first = run(handler, range(10, 20))
    handler.changelog()  # was in the transaction that is now aborted
    handler.rolled_back([0, 1], 1.0)
    assert handler.changelog() == []
    assert run(handler, range(10, 20)) == first


def test_rollback_during_an_outage_can_be_repeated(handler: IngestHandler, log: Log) -> None:
    run(handler, range(10))
    commit(handler, log)
    first = run(handler, range(10, 20))
    log.is_away = True
    with pytest.raises(BrokerUnavailable):
        handler.rolled_back([0, 1], 1.0)
    log.is_away = False
    handler.rolled_back([0, 1], 1.0)
    assert run(handler, range(10, 20)) == first


def test_only_committed_state_is_written_back(handler: IngestHandler, log: Log, sink: Sink) -> None:
    run(handler, range(3))
    handler.changelog()
    assert sink.got == {}
    handler.rolled_back([0, 1], 1.0)
    handler.committed()
    assert sink.got == {}
    run(handler, range(1))
    commit(handler, log)
    assert sink.got == {b"k0": log.records[0, b"k0"]}


def test_revoked_state_is_dropped(handler: IngestHandler, metrics: IngestMetrics) -> None:
    run(handler, range(3))
    handler.revoked([0])
    assert handler.changelog() == []
    assert metrics.entities._value.get() == 0


def test_outage_leaves_state_and_changelog_untouched(
    handler: IngestHandler, online: Online, log: Log
) -> None:
    run(handler, range(5))
    commit(handler, log)
    before = dict(log.records)
    online.is_away = True
    with pytest.raises(FeatureStoreUnavailable):
        run(handler, range(5, 10))
    assert handler.changelog() == []
    online.is_away = False
    run(handler, range(5, 10))
    commit(handler, log)
    table = log.restore([0], 1.0)[0]
    assert table.keys(np.arange(len(table))) == ["k0", "k1", "k2"]
    assert log.records != before
