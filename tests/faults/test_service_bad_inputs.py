"""The bad-input list of Kafka against the two running services: each case its class, no crash."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from harness.clients import Published, avro_encoder
from harness.fault_pipeline import FaultWindow, ServedPipeline, now_ms
from harness.records import RawMessage, Refused, Row, in_time, odd_events, odd_vectors, send
from harness.services import counted
from harness.waiting import eventually
from penstock_ledger.decoding import header_text
from penstock_ledger.records import RawRecord
from penstock_schemas.schema_files import schema_text

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

BACK_S = 60.0
NEIGHBOURS = 40
BOMB_BYTES = 48 * 1024 * 1024


def put(pipeline: ServedPipeline, published: Published, becomes: str, message: RawMessage) -> None:
    """Send an odd event and note what it must become."""
    partition = published.events % 2
    offset = send(pipeline.addresses.kafka, pipeline.topics.events, partition, message)
    published.events += 1
    if becomes == "skip":
        published.tombstones += 1
    elif becomes != "predicted":
        published.bad[partition, offset] = becomes


def rows(pipeline: ServedPipeline, seed: int) -> Iterator[Row]:
    while True:
        for row, _ in pipeline.rows(50, seed):
            yield row


def test_every_odd_event_has_its_outcome(pipeline: ServedPipeline, seed: int) -> None:
    fresh = rows(pipeline, seed)
    cases = list(odd_events(lambda: next(fresh), pipeline.producer.encode))
    random.Random(seed).shuffle(cases)
    ingest, router = pipeline.start_ingest(), pipeline.start_router()
    with FaultWindow(pipeline, f"odd events, seed {seed}", seed) as window:
        window.publish(NEIGHBOURS)
        for _, becomes, message in cases:
            put(pipeline, window.published, becomes, message)
        publish_and_abort(pipeline)
        window.publish(NEIGHBOURS)
        window.judge()
    assert len(cases) > 60
    assert ingest.poll() is None, "ingest has died of it"
    assert router.stop() == 0


def publish_and_abort(pipeline: ServedPipeline) -> None:
    """Write good events in a transaction that is taken back: nobody may see them."""
    producer = Producer(
        {
            "bootstrap.servers": pipeline.addresses.kafka,
            "transactional.id": f"abort-{pipeline.name}",
        }
    )
    producer.init_transactions(BACK_S)
    producer.begin_transaction()
    for row, _ in pipeline.rows(20, 1):
        producer.produce(pipeline.topics.events, pipeline.producer.encode(row), b"k")
    assert producer.flush(BACK_S) == 0
    producer.abort_transaction(BACK_S)


@pytest.mark.faults
def test_batch_that_lies_about_its_codec_is_refused_by_the_broker(pipeline: ServedPipeline) -> None:
    with pytest.raises(Refused):
        send(pipeline.addresses.kafka, pipeline.topics.events, 0, RawMessage(b"bad", codec=4))


@pytest.mark.faults
def test_headers_that_are_no_text_cost_a_dead_letter_its_headers_only(
    pipeline: ServedPipeline, seed: int
) -> None:
    """After dozens of readable ones: the interpreter checks less of a call that it makes often."""
    message = RawMessage(b"bad", key=b"\xff", headers=((b"\xff\xfe", b"1"),))
    ingest = pipeline.start_ingest()
    run = pipeline.window()
    for number in range(NEIGHBOURS):
        plain = RawMessage(b"bad-%d" % number, headers=((b"a", b"1"),))
        send(pipeline.addresses.kafka, pipeline.topics.events, 0, plain)
    send(pipeline.addresses.kafka, pipeline.topics.events, 0, message)

    def last() -> RawRecord | None:
        letters = run.records("events_dlq")
        return letters[-1] if len(letters) == NEIGHBOURS + 1 else None

    letter = eventually(last, BACK_S, "all are dead", unless=lambda: alive(ingest))
    assert letter is not None
    assert (letter.key, letter.value) == (b"\xff", b"bad")
    assert letter.timestamp_ms == message.timestamp_ms
    assert header_text(letter.headers, "dlq.class") == "decode"


def alive(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "ingest has died of it"


@pytest.mark.faults
def test_every_odd_vector_has_its_outcome(pipeline: ServedPipeline, seed: int) -> None:
    pipeline.start_ingest()
    router = pipeline.started_router()
    first = pipeline.window()
    pipeline.publish(60, seed)
    first.drain(BACK_S)
    (template, *_) = first.decoded("features")
    text = schema_text("feature_vector.avsc")
    (raw, *_) = first.records("features")
    encode = avro_encoder(text, int.from_bytes((raw.value or b"")[1:5], "big"))
    cases = list(odd_vectors(template, encode))
    random.Random(seed).shuffle(cases)
    run, sent = pipeline.window(), {}
    for what, becomes, message in cases:
        offset = send(
            pipeline.addresses.kafka, pipeline.topics.features, 0, in_time(message, now_ms())
        )
        sent[offset] = (what, becomes, message)
    eventually(lambda: run.backlog("inference") == 0, BACK_S, "all is worked off")
    dead = {
        int(header_text(r.headers, "__streams.errors.offset") or -1): r
        for r in run.records("features_dlq")
    }
    found = {at: header_text(letter.headers, "dlq.class") for at, letter in dead.items()}
    wanted = {at: b for at, (_, b, _) in sent.items() if b not in ("predicted", "skip")}
    names = {at: what for at, (what, _, _) in sent.items()}
    assert {names[at]: v for at, v in found.items()} == {names[at]: v for at, v in wanted.items()}
    for at, letter in dead.items():
        assert letter.value == sent[at][2].value, names[at]
    good = sum(becomes == "predicted" for _, becomes, _ in cases)
    assert run.count("predictions") == good
    assert router.stop() == 0


@pytest.mark.faults
def test_record_that_unpacks_to_more_than_any_topic_takes_stops_nobody(
    pipeline: ServedPipeline, seed: int
) -> None:
    """48 MiB in 48 KiB: neither its outputs nor its dead letter can be written as they are."""
    ingest, router = pipeline.start_ingest(), pipeline.start_router()
    bomb = RawMessage(b"\x01" * BOMB_BYTES, codec=1, zipped=True)
    run, published = pipeline.window(), pipeline.publish(NEIGHBOURS, seed)
    put(pipeline, published, "oversize", bomb)
    pipeline.publish(NEIGHBOURS, seed + 1, published)
    run.drain(BACK_S)
    # The value is left out, so the bytes differ, by design.
    report = run.report(published, skip=("I7 dead letter bytes",))
    assert report.ok, str(report)
    assert report.dead_letters["oversize"] == 1
    (letter,) = (r for r in run.records("events_dlq") if r.value is None)
    why = header_text(letter.headers, "__streams.errors.message") or ""
    assert f"{BOMB_BYTES} bytes left out" in why
    assert ingest.poll() is None, "ingest has died of it"
    assert router.stop() == 0
    assert counted(pipeline.run_dir, "penstock_transactions_total", outcome="aborted") == 0
