"""The ledger's reader and its check against a real broker and registry, with real transactions."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from hand_made_pipeline import CALL_S, FOREVER, NOW_MS, HandMadePipeline
from penstock_cli import main as cli
from penstock_ledger import (
    LedgerUnreachable,
    LogClient,
    RawRecord,
    ReadOptions,
    TopicRange,
    check_pipeline,
)
from penstock_schemas.errors import ConfigError

pytestmark = pytest.mark.integration


@pytest.fixture
def pipeline(kafka_bootstrap: str, registry_url: str, seed: int) -> Iterator[HandMadePipeline]:
    made = HandMadePipeline(kafka_bootstrap, registry_url, seed)
    yield made
    made.close()


def test_correct_log_with_aborts_has_no_findings(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(200)
    pipeline.run("ingest", leave=5)
    pipeline.run("inference", leave=7)
    report = pipeline.report()
    assert report.ok, str(report)
    assert report.events == 200
    assert report.pending >= 10
    assert report.aborted["features"] > 0
    assert report.aborted["predictions"] > 0


def test_window_starts_at_the_marks(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(60)
    pipeline.run("ingest")
    marks = LogClient(pipeline.bootstrap).marks(pipeline.topics)
    report = pipeline.report(marks)
    assert report.ok, str(report)
    assert report.events == 0
    assert pipeline.report().events == 60


def test_record_outside_a_transaction_is_found(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(60)
    pipeline.run("ingest")
    pipeline.run("inference")
    assert pipeline.report().drained
    name = pipeline.topics.predictions
    end = LogClient(pipeline.bootstrap).offsets(name, "last", "read_committed")
    read = TopicRange(pipeline.bootstrap, name, dict.fromkeys(end, 0))
    first = next(read.batches("read_committed", end, FOREVER))[0]
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    producer.produce(name, first.value, first.key, first.partition)
    assert producer.flush(CALL_S) == 0
    report = pipeline.report()
    assert "I2 no duplicate" in [finding.invariant for finding in report.findings]


def test_open_transaction_is_neither_visible_nor_aborted(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(40)
    pipeline.run("ingest")
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(CALL_S)
    producer.begin_transaction()
    producer.produce(pipeline.topics.predictions, b"open", b"k", 0)
    assert producer.flush(CALL_S) == 0
    report = pipeline.report()
    producer.abort_transaction(CALL_S)
    assert report.ok, str(report)
    assert report.predictions == 0
    assert "predictions" not in report.aborted


def test_what_is_committed_behind_an_open_transaction_is_not_lost(
    pipeline: HandMadePipeline,
) -> None:
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap, "transactional.id": uuid.uuid4().hex}
    )
    producer.init_transactions(CALL_S)
    producer.begin_transaction()
    for partition in range(2):
        producer.produce(pipeline.topics.predictions, b"open", b"k", partition)
    assert producer.flush(CALL_S) == 0
    pipeline.produce_events(40)
    pipeline.run("ingest")
    pipeline.run("inference")
    # The read finds it open, and waits for its end.
    ending = threading.Timer(1.5, producer.abort_transaction, (CALL_S,))
    ending.start()
    report = pipeline.report()
    ending.join(CALL_S)
    assert report.ok, str(report)
    assert report.predictions > 0


def test_message_becomes_raw_record_with_headers(pipeline: HandMadePipeline) -> None:
    producer = Producer({"bootstrap.servers": pipeline.bootstrap})
    name = pipeline.topics.events
    headers: list[tuple[str, str | bytes | None]] = [("a", b"1"), ("a", b""), ("b", None)]
    producer.produce(name, b"", None, 1, timestamp=NOW_MS, headers=headers)
    assert producer.flush(CALL_S) == 0
    end = LogClient(pipeline.bootstrap).offsets(name, "last", "read_committed")
    read = TopicRange(pipeline.bootstrap, name, dict.fromkeys(end, 0))
    (record,) = next(read.batches("read_committed", end, FOREVER))
    assert record == RawRecord(1, 0, None, b"", NOW_MS, (("a", b"1"), ("a", b""), ("b", None)))


def test_running_pipeline_is_checked_with_its_replays_and_its_model(
    pipeline: HandMadePipeline,
) -> None:
    pipeline.route()
    pipeline.produce_events(200)
    pipeline.run("ingest")
    pipeline.run("inference")
    pipeline.replay(5)
    pipeline.run("ingest")
    pipeline.run("inference", leave=2)
    report = check_pipeline(pipeline.topics, pipeline.options)
    assert report.ok, str(report)
    assert "I10 provenance" in report.held
    assert report.events == 205
    assert report.replays == 5
    assert report.aborted["predictions"] > 0


def test_window_begins_with_an_event_in_every_topic(pipeline: HandMadePipeline) -> None:
    pipeline.produce_events(200)
    pipeline.run("ingest")
    pipeline.run("inference")
    whole = check_pipeline(pipeline.topics, pipeline.options)
    for first in (0, 1, 37, 99, 100):
        report = check_pipeline(pipeline.topics, pipeline.options, lambda _, at=first: at)
        assert report.ok, str(report)
        assert report.events == 200 - 2 * first
        assert report.predictions <= whole.predictions
    half = check_pipeline(pipeline.topics, pipeline.options, NOW_MS + 100)
    assert half.ok, str(half)
    assert half.events == 100


def run_verb(pipeline: HandMadePipeline, folder: Path, *arguments: str) -> int:
    home = folder / pipeline.topics.pipeline
    home.mkdir(exist_ok=True)
    (home / "pipeline.yaml").write_text(f"pipeline: {pipeline.topics.pipeline}\n")
    where = ["--bootstrap-servers", pipeline.bootstrap, "--registry-url", pipeline.registry_url]
    with pytest.raises(SystemExit) as ended:
        cli.main(["ledger", str(home), "-o", "json", *where, *arguments])
    return int(ended.value.code or 0)


def test_verb_exits_0_until_a_law_is_broken(
    pipeline: HandMadePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.produce_events(60)
    pipeline.run("ingest")
    pipeline.run("inference")
    assert run_verb(pipeline, tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["records"]["aborted"]
    # A consumer that commits what it has not processed loses it.
    name = pipeline.topics.events
    pipeline.produce_events(10)
    pipeline.commit("ingest", LogClient(pipeline.bootstrap).offsets(name, "last", "read_committed"))
    assert run_verb(pipeline, tmp_path) == 1
    rows = json.loads(capsys.readouterr().out)["invariants"]
    assert {row["invariant"] for row in rows if row["state"] == "violated"} == {"I1 no loss"}


def test_nobody_answers(registry_url: str, pipeline: HandMadePipeline) -> None:
    nowhere = ReadOptions("127.0.0.1:1", registry_url, timeout_s=5.0)
    with pytest.raises(LedgerUnreachable):
        check_pipeline(pipeline.topics, nowhere)


def test_pipeline_without_topics_is_told(pipeline: HandMadePipeline) -> None:
    other = type(pipeline.topics).of("nobody")
    with pytest.raises(ConfigError, match=r"nobody\.events\.v1"):
        check_pipeline(other, pipeline.options)
