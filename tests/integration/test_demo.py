"""The demo's view of a loop, on a real broker: the services are played by a script."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from penstock_cli.demonstration import run as module
from penstock_cli.demonstration.run import DemoPlan, run
from penstock_cli.demonstration.stages import CONTROL, LOOP, Stage, StageMissed
from penstock_cli.demonstration.view import PlainView
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_routing.states import buckets
from penstock_schemas.records import (
    DriftEvent,
    DriftWindow,
    ModelVersion,
    RetrainEvent,
    RoutingState,
)
from penstock_schemas.schema_files import schema_text
from penstock_simulator.foreign_producer import Connection, avro_writer, register
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import PUBLIC_PORTS, Endpoints

pytestmark = pytest.mark.integration

FRAUD = Path(__file__).parents[2] / "pipelines" / "fraud"
AT = 5_000
RATE = 4_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a pipeline of its own name."""
    name = f"demo-{uuid.uuid4().hex[:8]}"
    copy = tmp_path / "pipelines" / name
    shutil.copytree(FRAUD, copy)
    file = copy / "pipeline.yaml"
    document = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**document, "pipeline": name}))
    return copy


@pytest.fixture
def config(
    folder: Path, tmp_path: Path, kafka_bootstrap: str, registry_url: str
) -> Iterator[StackConfig]:
    topics = load_pipeline(folder).config.topic_names
    ports = {
        **PUBLIC_PORTS,
        "KAFKA": int(kafka_bootstrap.rsplit(":", 1)[1]),
        "REGISTRY": urlsplit(registry_url).port or 0,
        "DRIFT": 1,  # nobody answers there
    }
    wanted = [NewTopic(topic.name, topic.partitions, 1) for topic in topics.all(2)]
    with own_topics(kafka_bootstrap, wanted):
        yield StackConfig(tmp_path / "state", tmp_path, Endpoints(ports), (folder,))


class PlayedLoop(threading.Thread):
    """Plays ingest to retrain-trigger: answers events, and tells the loop's story as they come.

    Parameters
    ----------
    story
        What is told once so many events have been answered.
    """

    def __init__(
        self, pipeline: LoadedPipeline, connection: Connection, story: dict[int, list[str]]
    ) -> None:
        super().__init__(daemon=True)
        topics = pipeline.config.topic_names
        self.topics = topics
        self.name_ = topics.pipeline
        self.stop = threading.Event()
        self.lose = self.repeat = 0
        self.split_keys: set[bytes] = set()
        self.canary_keys: set[bytes] = set()
        self._story = story
        self._connection = connection
        self._producer = Producer({"bootstrap.servers": connection.bootstrap_servers})
        self._split = (100, 0)
        write = self._writer
        self._writers = {
            topics.predictions: write(topics.predictions, "prediction.avsc"),
            topics.drift: write(topics.drift, "drift_event.avsc"),
            topics.retrain: write(topics.retrain, "retrain_event.avsc"),
            topics.models: write(topics.models, "routing_state.avsc"),
        }
        self._read = pipeline.event_schema

    def _writer(self, topic: str, schema_file: str) -> Callable[..., bytes]:
        text = schema_text(schema_file)
        return avro_writer(text, register(self._connection, f"{topic}-value", text))

    def tell(self, topic: str, record: dict[str, object]) -> None:
        value = self._writers[topic](record)
        self._producer.produce(topic, value, self.name_.encode())

    def run(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._connection.bootstrap_servers,
                "group.id": f"{self.name_}-played",
                "auto.offset.reset": "earliest",
            }
        )
        consumer.subscribe([self.topics.events])
        self.route(1)
        answered = 0
        while not self.stop.is_set():
            for message in consumer.consume(2000, 0.1):
                if message.error() is None:
                    self.answer(message.key() or b"", message.value() or b"", message.partition())
                    answered += 1
                    for what in self._story.get(answered, ()):
                        getattr(self, what)()
            self._producer.poll(0)
        self._producer.flush(20)
        consumer.close()

    def answer(self, key: bytes, value: bytes, partition: int) -> None:
        if self.lose:
            self.lose -= 1
            return
        is_canary = buckets([key], self.name_)[0] < self._split[1] * 100
        promoted = self._split == (0, 100)
        if self._split == (90, 10):
            self.split_keys.add(key)
            if is_canary:
                self.canary_keys.add(key)
        record = {
            "event_id": value[6 : 6 + value[5] // 2].decode(),  # the first field, a short string
            "event_time": 0, "predicted_at": 0, "pipeline": self.name_, "model_name": "m",
            "model_version": "2" if is_canary else "1",
            "variant": "canary" if is_canary and not promoted else "champion",
            "scores": [float(np.frombuffer(key[-3:].ljust(4, b"\0"), "<u4")[0] % 97) / 97],
            "decision": False, "threshold": 0.5, "features": [1.0, 2.0], "origin": None,
            "attempt": "a", "outcome": "predicted",
        }  # fmt: skip
        for _ in range(1 + bool(self.repeat)):
            payload = self._writers[self.topics.predictions](record)
            self._producer.produce(self.topics.predictions, payload, key, partition)
        self.repeat = max(0, self.repeat - 1)

    def route(self, revision: int) -> None:
        one = ModelVersion("m", "1", "m__1", "champion", 100, "d", "r1", "serving")
        two = ModelVersion("m", "2", "m__2", "challenger", 10, "d", "r2", "canary")
        versions = {
            1: (one,),
            2: (replace(one, weight=90), two),
            3: (
                replace(two, alias="champion", weight=100, state="serving"),
                replace(one, alias="previous", weight=0, state="draining"),
            ),
        }[revision]
        self._split = {1: (100, 0), 2: (90, 10), 3: (0, 100)}[revision]
        state = RoutingState(self.name_, revision, 0, "played", versions)
        self.tell(self.topics.models, state.to_dict())

    def alarm(self) -> None:
        window = DriftWindow(self.topics.observations, 0, 1, 9, 9, 1, 2)
        for severity in ("suspected", "detected"):
            event = DriftEvent(
                f"e-{severity}", "e", self.name_, 2**42, "adwin", "concept", "error", 0.03, 0.012,
                0.008, "m", "1", window, "", severity,
            )  # fmt: skip
            self.tell(self.topics.drift, event.to_dict())
        self.step("requested")

    def accept(self) -> None:
        self.step("accepted")
        self.step("started", job_id="r", run_id="run2")

    def suppress(self) -> None:
        self.step("suppressed", reason="disabled: retrain.enabled is false")

    def reject(self) -> None:
        self.step("finished", verdict="rejected", reason="no better")

    def canary(self) -> None:
        self.route(2)

    def promote(self) -> None:
        self.route(3)
        self.step("finished", verdict="promoted", model_version="2", metrics={"canary_auc": 0.9})

    def lose_one(self) -> None:
        self.lose = 1

    def repeat_one(self) -> None:
        self.repeat = 1

    def step(self, state: str, **facts: object) -> None:
        asked = RetrainEvent.request("r", self.name_, 5, "drift", reason="error tripled")
        event = asked if state == "requested" else asked.followed_by(state, 6, **facts)
        self.tell(self.topics.retrain, event.to_dict())


CLOSES = {
    AT + 1_000: ["alarm"],
    AT + 1_500: ["accept"],
    AT + 2_000: ["canary"],
    AT + 8_000: ["promote"],
}


@pytest.fixture
def played() -> Iterator[list[PlayedLoop]]:
    """Return the loops that the test plays; they end with it."""
    loops: list[PlayedLoop] = []
    yield loops
    for one in loops:
        one.stop.set()
        one.join(30)


@pytest.fixture
def play(
    config: StackConfig,
    kafka_bootstrap: str,
    registry_url: str,
    played: list[PlayedLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., module.Outcome]:
    """Return a function that shows a story and returns what the demo saw."""
    monkeypatch.setattr(module, "MEASURED_LABELS", 3_000)
    monkeypatch.setattr(module, "CONTROL_LABELS", 6_000)
    monkeypatch.setattr(module, "REPORT_WITHIN_S", 0.1)
    pipeline = load_pipeline(config.pipelines[0])

    def show(story: dict[int, list[str]], **plan: object) -> module.Outcome:
        played.append(PlayedLoop(pipeline, Connection(kafka_bootstrap, registry_url), story))
        played[0].start()
        given = {"seed": 3, "drift": "concept", "drift_at": AT, "rate": RATE, **plan}
        return run(config, DemoPlan(**given), PlainView())

    return show


def test_a_loop_that_closes_is_seen_whole(
    play: Callable[..., module.Outcome], played: list[PlayedLoop]
) -> None:
    outcome = play(CLOSES)
    facts, counts = outcome.facts, outcome.ledger
    assert outcome.missed is None
    assert {s["stage"] for s in facts["stages"]} == {s.value for s in LOOP}
    assert counts.is_clean
    assert counts.events == counts.predictions == counts.labels
    after = facts["auc"]["after_promotion"]
    assert after["rows"] >= 3_000
    assert after["oracle"] > 0.9
    assert after["champion_interval"][0] < after["champion"] < after["champion_interval"][1]
    (loop,) = played
    share = 100 * len(loop.canary_keys) / len(loop.split_keys)  # 10 %, and the hash's chance
    assert facts["canary"]["keys"] == len(loop.canary_keys) > 0
    assert facts["canary"]["keys_percent"] == pytest.approx(share, rel=0.05)
    assert facts["canary"]["keys_with_both"] == 0
    assert facts["retrain"]["model_version"] == "2"
    assert facts["retrain"]["metrics"] == {"canary_auc": 0.9}
    assert Path(facts["links"]["plot"]).stat().st_size > 10_000


def test_what_is_lost_and_what_is_there_twice_is_counted(
    play: Callable[..., module.Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_cli.demonstration.run.DRAINED_WITHIN_S", 3.0)
    outcome = play({**CLOSES, 100: ["lose_one"], 200: ["repeat_one"]})
    assert outcome.missed is None
    assert (outcome.ledger.lost, outcome.ledger.duplicates) == (1, 1)
    assert not outcome.ledger.is_clean


def test_a_rejected_candidate_ends_the_demo_by_name(play: Callable[..., module.Outcome]) -> None:
    outcome = play({**CLOSES, AT + 8_000: ["reject"]})
    assert isinstance(outcome.missed, StageMissed)
    assert outcome.missed.stage is Stage.PROMOTED
    assert "no better" in str(outcome.missed)
    assert outcome.facts["failed_stage"] == "candidate promoted"
    assert outcome.ledger.is_clean


def test_a_control_run_ends_without_a_promotion(play: Callable[..., module.Outcome]) -> None:
    outcome = play({AT + 1_000: ["alarm", "suppress"]}, retrains=False)
    assert outcome.missed is None
    assert {s["stage"] for s in outcome.facts["stages"]} == {s.value for s in CONTROL}
    assert outcome.facts["retrain"]["state"] == "suppressed"
    assert outcome.facts["auc"]["after_promotion"]["rows"] == 3_000
    assert outcome.facts["last_phase"] == "at the end"
