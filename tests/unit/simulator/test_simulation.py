from __future__ import annotations

import dataclasses
import json
import threading
import time
from io import BytesIO
from pathlib import Path

import fastavro
import pytest
from penstock_pipelines.loader import load_pipeline
from penstock_schemas.errors import ConfigError
from penstock_schemas.schema_files import schema_text
from penstock_simulator import simulation as module
from penstock_simulator.foreign_producer import Connection
from penstock_simulator.generators import Drift, SimulatedBatch
from penstock_simulator.simulation import SimulationPlan, SimulationReport, simulate

FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")
EVENT = fastavro.parse_schema(json.loads(FRAUD.event_schema))
INTERACTION = fastavro.parse_schema(json.loads(schema_text("interaction.avsc")))
START_MS = 1_750_000_000_000
Sent = list[tuple[str, bytes | None, bytes | None]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Collect what is sent instead of sending it; the end of the topic is empty."""
    records: Sent = []

    class Producer:
        def __init__(self, connection: Connection) -> None:
            self.topics: list[str] = []

        def check_topics(self, topics: list[str]) -> None:
            self.topics = topics

        def send(self, topic: str, key: bytes | None, value: bytes | None) -> None:
            assert topic in self.topics
            records.append((topic, key, value))

        def poll(self) -> None: ...

        def flush(self) -> None: ...

    monkeypatch.setattr(module, "ForeignProducer", Producer)
    monkeypatch.setattr(module, "register", lambda *_: 9)
    monkeypatch.setattr(module, "last_event_ms", lambda *_: None)
    return records


def run(**plan: object) -> SimulationReport:
    given = {"events": 3000, "start_ms": START_MS, **plan}
    return simulate(FRAUD, Connection("nowhere:1", "http://nowhere"), SimulationPlan(**given))


def split(sent: Sent) -> tuple[list[dict], list[dict]]:  # type: ignore[type-arg]
    read = {"fraud.events.v1": (EVENT, []), "fraud.interactions.v1": (INTERACTION, [])}
    for topic, _, value in sent:
        schema, rows = read[topic]
        assert value is not None
        rows.append(fastavro.schemaless_reader(BytesIO(value[5:]), schema, None))
    return read["fraud.events.v1"][1], read["fraud.interactions.v1"][1]


def test_every_event_gets_its_label_once(sent: Sent) -> None:
    report = run()
    events, labels = split(sent)
    assert [e["event_id"] for e in events] == report.good_ids
    assert sorted(x["event_id"] for x in labels) == sorted(report.good_ids)
    assert sum(x["label"] for x in labels) == report.positives > 0
    assert all(
        key == row["account_id"].encode()
        for (_, key, _), row in zip(
            (s for s in sent if s[0] == "fraud.events.v1"), events, strict=True
        )
    )


def test_labels_come_after_their_delay(sent: Sent) -> None:
    run(label_delay_s=3600.0)
    when = {e["event_id"]: e["event_time"].timestamp() for e in split(sent)[0]}
    newest = 0.0
    for topic, _, value in sent:
        schema = EVENT if topic.endswith("events.v1") else INTERACTION
        row = fastavro.schemaless_reader(BytesIO(value[5:]), schema, None)
        if schema is EVENT:
            newest = max(newest, row["event_time"].timestamp())
            continue
        lag = row["occurred_at"].timestamp() - when[row["event_id"]]
        assert 1800 <= lag <= 5400
        assert row["occurred_at"].timestamp() <= newest or newest == max(when.values())


def test_no_delay_given_means_no_labels(sent: Sent) -> None:
    assert run(label_delay_s=None).labels == 0
    assert {topic for topic, _, _ in sent} == {"fraud.events.v1"}


def test_same_seed_sends_the_same_bytes(sent: Sent) -> None:
    run(seed=5, bad_share=0.02)
    first = list(sent)
    sent.clear()
    run(seed=5, bad_share=0.02)
    assert sent == first
    sent.clear()
    run(seed=6, bad_share=0.02)
    assert sent != first


def test_spoilt_events_are_reported_and_only_predictable_ones_labelled(sent: Sent) -> None:
    report = run(bad_share=0.05)
    assert report.events == 3000
    assert 100 < len(report.spoilt) < 200
    predictable = [s for s in report.spoilt if s.expected == "predicted"]
    assert report.labels == len(report.good_ids) + len(predictable)
    values = [(key, value) for topic, key, value in sent if topic == "fraud.events.v1"]
    for spoilt in report.spoilt:
        assert (spoilt.key, spoilt.value) in values


def test_run_ends_about_now_and_never_after(sent: Sent) -> None:
    report = run(start_ms=None, label_delay_s=60.0)
    behind_s = time.time_ns() / 1e9 - report.end_ms / 1000
    assert 90 <= behind_s < 8 * 3600


def test_second_run_goes_on_where_the_first_ended(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() // 1_000_000 + 10_000_000
    monkeypatch.setattr(module, "last_event_ms", lambda *_: later)
    assert run(start_ms=None).start_ms >= later


def test_progress_reaches_the_total(sent: Sent) -> None:
    seen: list[int] = []
    plan = SimulationPlan(events=2500, start_ms=START_MS)
    simulate(FRAUD, Connection("nowhere:1", "http://nowhere"), plan, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 2500


def test_each_batch_is_handed_out_before_it_is_sent(sent: Sent) -> None:
    seen: list[tuple[int, SimulatedBatch]] = []
    plan = SimulationPlan(events=12_000, start_ms=START_MS, drift=Drift("concept", 6000))
    at = Connection("nowhere:1", "http://nowhere")
    report = simulate(FRAUD, at, plan, on_batch=lambda b: seen.append((len(split(sent)[0]), b)))
    assert [before for before, _ in seen] == [0, 5000, 10_000]
    assert [i for _, b in seen for i in b.event_ids] == report.good_ids
    assert sum(b.labels.sum() for _, b in seen) == report.positives


@pytest.mark.parametrize("rate", [None, 2e4], ids=["as fast as it goes", "at a rate"])
def test_a_run_that_is_stopped_has_sent_the_labels_of_all_its_events(
    sent: Sent, rate: float | None
) -> None:
    stop = threading.Event()
    plan = SimulationPlan(events=10**6, rate=rate, start_ms=START_MS, label_delay_s=86_400.0)

    def progress(done: int) -> None:
        if done >= 7000:
            stop.set()

    report = simulate(FRAUD, Connection("nowhere:1", "http://nowhere"), plan, progress, stop=stop)
    events, labels = split(sent)
    assert 7000 <= len(events) < 10_000
    assert report.events == len(events)
    assert {x["event_id"] for x in labels} == {e["event_id"] for e in events}
    assert report.labels == len(labels)
    assert report.positives == sum(x["label"] for x in labels)
    assert report.end_ms == round(events[-1]["event_time"].timestamp() * 1000)


def test_stopping_does_not_wait_for_the_next_event(sent: Sent) -> None:
    stop = threading.Event()
    plan = SimulationPlan(events=100, rate=0.001, start_ms=START_MS)
    began = time.monotonic()
    report = simulate(
        FRAUD,
        Connection("nowhere:1", "http://nowhere"),
        plan,
        lambda done: stop.set(),
        stop=stop,
    )
    assert report.events == 1
    assert time.monotonic() - began < 30


def test_pipeline_without_simulator_says_what_to_set() -> None:
    bootstrap = FRAUD.config.model.bootstrap.model_copy(update={"simulator": None, "data": "x.csv"})
    model = FRAUD.config.model.model_copy(update={"bootstrap": bootstrap})
    without = dataclasses.replace(FRAUD, config=FRAUD.config.model_copy(update={"model": model}))
    with pytest.raises(ConfigError, match=r"model\.bootstrap\.simulator"):
        simulate(without, Connection("nowhere:1", "http://nowhere"), SimulationPlan(events=1))
