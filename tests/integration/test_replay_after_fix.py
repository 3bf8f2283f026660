"""A night on call: a wrong rule, its dead letters, the fix, the replay; with the real ingest."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from harness.kafka import delete_topics, read_topic
from harness.models import EVENT, NAME, readings, write_folder
from harness.replay import run_penstock
from harness.services import ServiceProcess, service_settings
from harness.waiting import eventually
from penstock_pipelines.loader import load_pipeline
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import decode_one, encode_one
from penstock_schemas.schema_files import schema_text
from penstock_streaming.admin import apply
from penstock_streaming.settings import KafkaSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
EVENTS = 300
START_S = 90.0


@dataclass
class Night:
    """A small pipeline with a name of its own, and its ingest."""

    bootstrap: str
    registry_url: str
    root: Path
    name: str = field(default_factory=lambda: f"night-{uuid.uuid4().hex[:8]}")
    ingest: ServiceProcess | None = None

    def __post_init__(self) -> None:
        made = write_folder(self.root / "pipelines")
        self.folder = made.rename(made.with_name(self.name))
        self.edit(f"pipeline: {NAME}", f"pipeline: {self.name}")
        config = load_pipeline(self.folder).config
        self.topics = config.topic_names
        self.all = config.topic_names.all(config.partitions)
        kafka = KafkaSettings(bootstrap_servers=self.bootstrap)
        registry = RegistryClient(RegistrySettings(url=self.registry_url))
        schema = json.dumps(EVENT)
        apply(kafka, registry, self.all, {self.topics.events: schema})
        schema_id = registry.register(f"{self.topics.events}-value", schema)
        self.rows = list(readings(random.Random(7), EVENTS))
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True})
        for row in self.rows:
            value = encode_one(schema, schema_id, row)
            producer.produce(self.topics.events, value, str(row["pump_id"]).encode())
        assert producer.flush(30) == 0

    def edit(self, old: str, new: str) -> None:
        file = self.folder / "pipeline.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def start(self) -> None:
        settings = service_settings(
            "ingest",
            kafka=self.bootstrap,
            registry=self.registry_url,
            pipelines=[self.folder],
            run_dir=self.root / "run",
            FEAST_DIR=self.root / "feast",
        )
        self.ingest = ServiceProcess("ingest", settings)

    def stop(self) -> None:
        if self.ingest is not None:
            assert self.ingest.stop() == 0
            self.ingest = None

    def vectors(self) -> list[dict[str, Any]]:
        schema = schema_text("feature_vector.avsc")
        found = read_topic(self.bootstrap, self.topics.features)
        return [decode_one(m.value() or b"", lambda _: schema, schema) for m in found]

    def letters(self) -> int:
        return len(read_topic(self.bootstrap, self.topics.dead_letter(self.topics.events)))

    def penstock(self, *arguments: object) -> dict[str, Any]:
        where = ("--bootstrap-servers", self.bootstrap, "--registry-url", self.registry_url)
        code, answer, err = run_penstock(self.root, *arguments, *where)
        assert code == 0, err
        return answer


@pytest.fixture
def night(kafka_bootstrap: str, registry_url: str, tmp_path: Path) -> Iterator[Night]:
    night = Night(kafka_bootstrap, registry_url, tmp_path)
    yield night
    if night.ingest is not None:
        night.ingest.end()
    delete_topics(kafka_bootstrap, [topic.name for topic in night.all])


def test_after_the_fix_every_event_has_exactly_one_vector(night: Night) -> None:
    rule = "{field: pressure, min: 0, max: 100}"
    wrong = "{field: pressure, min: 0, max: 40}"
    night.edit(rule, wrong)
    night.start()
    refused = sum(float(str(row["pressure"])) > 40 for row in night.rows)
    eventually(lambda: night.letters() == refused, START_S, "all dead letters are there")
    eventually(lambda: len(night.vectors()) == EVENTS - refused, START_S, "all others are vectors")
    night.stop()

    (group,) = night.penstock("dlq", "ls", night.name)["groups"]
    assert (group["class"], group["letters"], group["open"]) == ("rule", refused, refused)
    shown = night.penstock("dlq", "show", night.name, "--limit", 1, "--payload")["letters"][0]
    assert "pressure" in shown["cause"]
    assert shown["value"]["pressure"] > 40

    night.edit(wrong, rule)
    night.start()
    counts = night.penstock("dlq", "replay", night.name, "--class", "rule", "--yes")["counts"]
    assert counts == {"replayed": refused}
    eventually(lambda: len(night.vectors()) == EVENTS, START_S, "every event is a vector")
    night.stop()
    found = night.vectors()
    assert Counter(v["event_id"] for v in found) == Counter(r["event_id"] for r in night.rows)
    assert night.letters() == refused
    # Vectors of replayed events go back to the copies: one terminal record for each event record.
    copies = {
        (m.partition(), m.offset())
        for m in read_topic(night.bootstrap, night.topics.events)
        if "penstock.replay.of" in dict(m.headers() or [])
    }
    origins = {(v["origin"]["partition"], v["origin"]["offset"]) for v in found}
    assert len(copies) == refused
    assert copies <= origins
