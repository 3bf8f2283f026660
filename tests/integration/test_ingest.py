"""The ingest service as a process, on a real broker, registry and Feast store.

What it must give is computed apart from it: the offline pass of training over the same events.
"""

from __future__ import annotations

import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer
from harness.clients import register_schema
from harness.kafka import Isolation, own_topics, read_topic
from harness.kills import kill_loop
from harness.services import ServiceProcess, service_settings
from harness.waiting import eventually
from penstock_features.history import history
from penstock_features.online import apply_definitions, load_profiles, open_store
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.codec import ColumnarEncoder, decode_one
from penstock_schemas.schema_files import schema_text
from penstock_simulator.card_transactions import CardTransactions

FRAUD = Path(__file__).parents[2] / "pipelines" / "fraud"
ACCOUNTS = 200
BATCH_ROWS = 200
START_S = 120.0
"""A busy machine takes long to import the online store's SDK."""
FEAST_FEATURES = ("credit_limit", "account_age_days", "home_risk", "typical_amount", "chargebacks")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # Feast's dependencies
]


@dataclass
class IngestService:
    """One pipeline of its own: folder, topics, schema, online store, and the service."""

    bootstrap: str
    registry_url: str
    loaded: LoadedPipeline
    feast_dir: Path
    schema_id: int
    simulator: CardTransactions
    process: ServiceProcess | None = None
    sent: list[Any] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.feast_dir.parent / "run"

    @property
    def topics(self) -> Any:
        return self.loaded.config.topic_names

    def start(self, **extra: str) -> None:
        settings = service_settings(
            "ingest",
            kafka=self.bootstrap,
            registry=self.registry_url,
            pipelines=[self.loaded.folder],
            run_dir=self.run_dir,
            FEAST_DIR=self.feast_dir,
        )
        self.process = ServiceProcess("ingest", {**settings, **extra})

    def is_ready(self) -> bool:
        return self.process is not None and self.process.is_ready

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        return self.process.stop(number, 15)

    def publish(self, rows: int, rate: float = 0.02) -> None:
        """Publish as a foreign producer does; remember what was sent."""
        start = (
            self.sent[-1].column("event_time").cast("int64")[-1].as_py() if self.sent else 10**12
        )
        columns = self.simulator.generate(rows, start + 1000, rate).columns
        self.sent.append(columns)
        values = ColumnarEncoder(self.loaded.event_schema, self.schema_id).encode(columns)
        producer = Producer({"bootstrap.servers": self.bootstrap, "enable.idempotence": True})
        keys = columns.column("account_id").to_pylist()
        for value, key in zip(values, keys, strict=True):
            producer.produce(self.topics.events, value, key)
            producer.poll(0)
        assert producer.flush(30) == 0

    def read(self, topic: str, rows: int, isolation: Isolation = "read_committed") -> list[Any]:
        """Read a topic from its start until ``rows`` records are there and a second is quiet."""
        wait = {"quiet_s": 1.0, "deadline_s": START_S}
        return read_topic(self.bootstrap, topic, isolation, rows=rows, **wait)

    def vectors(self, rows: int) -> dict[str, dict[str, Any]]:
        """Return the FeatureVectors by event id, each exactly once, where its event lies."""
        schema = schema_text("feature_vector.avsc")
        found: dict[str, dict[str, Any]] = {}
        for message in self.read(self.topics.features, rows):
            vector = decode_one(message.value(), lambda _: schema, schema)
            assert vector["event_id"] not in found, "a vector came twice"
            assert vector["origin"]["partition"] == message.partition()
            assert message.key() == vector["entity_key"].encode()
            found[vector["event_id"]] = vector
        return found

    def expected(self) -> dict[str, np.ndarray]:
        """Return what training would compute for all that was sent."""
        import pyarrow as pa

        columns = pa.concat_batches(self.sent)
        profiles = self.simulator.profiles().set_index("account_id")
        accounts = profiles.loc[columns.column("account_id").to_pylist()]
        online = {
            f"account_profile:{name}": accounts[name].to_numpy(np.float64)
            for name in FEAST_FEATURES
        }
        matrix = history(self.loaded.config, columns, online)
        return dict(zip(columns.column("event_id").to_pylist(), matrix, strict=True))


@pytest.fixture
def service(kafka_bootstrap: str, registry_url: str, tmp_path: Path) -> Iterator[IngestService]:
    name = f"ing-{uuid.uuid4().hex[:8]}"
    folder = tmp_path / name
    shutil.copytree(FRAUD, folder)
    text = (folder / "pipeline.yaml").read_text().replace("pipeline: fraud", f"pipeline: {name}")
    # Small batches, so that there are several transactions whatever has piled up.
    (folder / "pipeline.yaml").write_text(f"{text}\nbatching: {{max_batch_rows: {BATCH_ROWS}}}\n")
    loaded = load_pipeline(folder)
    subject = f"{loaded.config.topic_names.events}-value"
    schema_id = register_schema(registry_url, subject, loaded.event_schema)
    feast_dir = tmp_path / "feast"
    apply_definitions(folder, feast_dir / name)
    simulator = CardTransactions(5, accounts=ACCOUNTS)
    load_profiles(feast_dir / name, "account_profile", simulator.profiles())
    made = IngestService(kafka_bootstrap, registry_url, loaded, feast_dir, schema_id, simulator)
    with own_topics(kafka_bootstrap, loaded.config.topic_names.all(loaded.config.partitions)):
        try:
            yield made
        finally:
            if made.process is not None:
                made.process.end()


def assert_as_offline(service: IngestService, vectors: dict[str, dict[str, Any]]) -> None:
    expected = service.expected()
    assert set(vectors) == set(expected)
    got = np.array([vectors[event_id]["features"] for event_id in expected])
    np.testing.assert_array_equal(got.astype(np.float32), np.array(list(expected.values())))


def test_events_become_the_vectors_of_training_and_sigterm_is_clean(service: IngestService) -> None:
    service.start()
    service.publish(2_000)
    vectors = service.vectors(2_000)
    assert_as_offline(service, vectors)
    assert eventually(service.is_ready, 10)
    began = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - began < 10


def test_bad_events_are_dead_letters_and_their_neighbours_go_on(service: IngestService) -> None:
    service.publish(50)
    producer = Producer({"bootstrap.servers": service.bootstrap})
    for value, key in ((b"\x00\x00\x00", b"x"), (b"{", b"x"), (None, b"x")):
        producer.produce(service.topics.events, value, key, partition=0)
    assert producer.flush(30) == 0
    service.publish(50)
    service.start()
    assert_as_offline(service, service.vectors(100))
    dead = service.read(service.topics.dead_letter(service.topics.events), 2)
    assert sorted(m.value() for m in dead) == [b"\x00\x00\x00", b"{"]
    assert {dict(m.headers())["dlq.class"] for m in dead} == {b"decode"}


@pytest.mark.faults
@pytest.mark.parametrize("place", ["mid_produce:3", "before_offsets:3", "during_commit:3"])
def test_state_after_a_kill_is_that_of_an_unbroken_run(service: IngestService, place: str) -> None:
    service.publish(1_000)
    one_each = {"PENSTOCK_INGEST_LOOP__MAX_TRANSACTION_ROWS": str(BATCH_ROWS)}
    service.start(**kill_loop("PENSTOCK_INGEST_", place), **one_each)
    service.publish(2_000)
    assert service.process is not None
    assert service.process.wait(START_S) == -signal.SIGKILL
    assert any((service.run_dir / "flights").iterdir()), "what killed it could never be told"
    service.start(**one_each)
    service.publish(1_000)
    assert_as_offline(service, service.vectors(4_000))
    total = len(service.read(service.topics.features, 4_000, "read_uncommitted"))
    if place == "mid_produce:3":
        assert total > 4_000, "nothing was aborted: the kill has missed"


def test_value_changed_from_outside_is_in_the_next_vector(service: IngestService) -> None:
    service.start()
    service.publish(500)
    assert_as_offline(service, service.vectors(500))
    profiles = service.simulator.profiles()
    changed = profiles.assign(home_risk=0.987654, event_timestamp=pd.Timestamp.now(tz="UTC"))
    repo = service.feast_dir / service.loaded.config.pipeline
    open_store(repo).write_to_online_store("account_profile", changed)
    service.publish(500)
    vectors = service.vectors(1_000)
    at = service.loaded.config.feature_names.index("home_risk")
    for columns, is_changed in zip(service.sent, (False, True), strict=True):
        risks = [vectors[e]["features"][at] for e in columns.column("event_id").to_pylist()]
        assert (set(np.float32(risks)) == {np.float32(0.987654)}) is is_changed


def test_aggregates_are_written_back(service: IngestService) -> None:
    service.start()
    service.publish(300)
    service.vectors(300)
    accounts = service.sent[-1].column("account_id").unique().to_pylist()
    store = open_store(service.feast_dir / service.loaded.config.pipeline)

    def written() -> list[Any]:
        answer = store.get_online_features(
            features=["account_activity:count_24h", "account_activity:state"],
            entity_rows={"account_id": accounts},
        ).to_dict()
        return answer["count_24h"] if None not in answer["state"] else []

    counts = eventually(written, 60)
    assert min(counts) > 0
