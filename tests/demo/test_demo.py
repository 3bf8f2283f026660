"""``penstock demo`` closes the loop, and what it says is what a foreign client finds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
import requests
from confluent_kafka import Consumer, KafkaError, TopicPartition
from harness.stack import PENSTOCK, Stack, free_offset, penstock
from prometheus_client.parser import text_string_to_metric_families
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).parents[2]
DEMO_S = 900.0
LIFE = ["requested", "accepted", "started", "finished"]
DECISIONS = {"accepted", "suppressed"}
SEED = os.environ.get("PENSTOCK_TEST_SEED", "1")
pytestmark = [pytest.mark.demo, pytest.mark.timeout(DEMO_S + 120)]


class Demo:
    """A finished demo whose stack still runs."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.data_dir = ROOT / ".penstock" / "demo"
        self.stack = Stack(self.data_dir)
        self._schemas: dict[int, Any] = {}

    def records(self, topic: str) -> list[dict[str, Any]]:
        """Read a whole topic, committed records only, as any Avro client does."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.stack.kafka_bootstrap,
                "group.id": "foreign",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        partitions = consumer.list_topics(topic, 10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        open_ends, found = set(partitions), []
        while open_ends:
            for message in consumer.consume(5_000, 5.0):
                error = message.error()
                if error is None:
                    found.append(self._decoded(message.value()))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(message.partition())
        consumer.close()
        return found

    def _decoded(self, value: bytes) -> dict[str, Any]:
        schema_id = int.from_bytes(value[1:5], "big")
        if schema_id not in self._schemas:
            answer = requests.get(f"{self.stack.registry_url}/schemas/ids/{schema_id}", timeout=10)
            self._schemas[schema_id] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        import io

        return fastavro.schemaless_reader(io.BytesIO(value[5:]), self._schemas[schema_id])

    def verb(self, *arguments: str) -> Any:
        """Return what a verb says in JSON."""
        return json.loads(penstock("-o", "json", *arguments, "--data-dir", str(self.data_dir)))


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """Run the demo once and leave its stack up until the tests have looked at it."""
    command = [str(PENSTOCK), "-o", "json", "demo", "--seed", SEED, "--keep"]
    command += ["--port-offset", str(free_offset())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEMO_S)
    found = None
    try:
        assert done.returncode == 0, f"{done.stderr[-4000:]}\n{done.stdout[-4000:]}"
        found = Demo(json.loads(done.stdout))
        yield found
    finally:
        data_dir = ROOT / ".penstock" / "demo"
        penstock("down", "--data-dir", str(data_dir), timeout_s=60, check=found is not None)
    left = [" ".join(process.cmdline())[:200] for process in found.stack.processes()]
    assert not left, f"penstock down leaves processes: {left}"


def test_quality_falls_with_the_drift_and_comes_back_with_the_promotion(demo: Demo) -> None:
    auc = demo.facts["auc"]
    before, after, back = auc["before_drift"], auc["after_drift"], auc["after_promotion"]
    assert before["champion"] >= before["oracle"] - 0.04
    assert after["champion"] <= before["champion"] - 0.10
    assert back["champion"] >= back["oracle"] - 0.05
    assert back["rows"] >= 20_000
    assert back["old_champion"] <= back["champion"] - 0.05, "it would have come back by itself"
    low, high = back["champion_interval"]
    assert low <= back["champion"] <= high


def test_drift_is_found_soon_and_asked_for_once(demo: Demo) -> None:
    assert demo.facts["alarm"]["labels"] <= 5_000
    events = demo.records("fraud.drift.v1")
    assert len({e["event_id"] for e in events}) == len(events)
    detected = [e for e in events if e["severity"] == "detected"]
    assert {(e["kind"], e["subject"]) for e in detected} == {("concept", "error")}
    steps = demo.records("fraud.retrain.v1")
    requested = {s["request_id"]: s for s in steps if s["state"] == "requested"}
    # Drift that lasts for 100,000 labels, as on a slow machine, is a new episode.
    episodes = {e["episode_id"] for e in detected}
    assert len(requested) == len(episodes)
    assert sorted(c for s in requested.values() for c in s["cause_ids"]) == sorted(
        e["event_id"] for e in detected
    )
    decided = {s["request_id"]: s["state"] for s in steps if s["state"] in DECISIONS}
    assert decided.keys() == requested.keys()
    acted_upon = demo.facts["retrain"]["request_id"]
    assert [r for r, state in decided.items() if state == "accepted"] == [acted_upon]
    assert [s["state"] for s in steps if s["request_id"] == acted_upon] == LIFE


def test_every_event_has_its_prediction_and_the_ledger_is_clean(demo: Demo) -> None:
    counted = demo.facts["ledger"]
    assert counted["lost"] == counted["duplicates"] == counted["dead_letters"] == 0
    penstock("ledger", "fraud", "--data-dir", str(demo.data_dir), timeout_s=300)


def test_canary_had_its_share_of_the_keys_and_each_key_one_variant(demo: Demo) -> None:
    assert 8 <= demo.facts["canary"]["keys_percent"] <= 12
    assert demo.facts["canary"]["keys_with_both"] == 0
    assert demo.facts["retrain"]["metrics"]["canary_rows"] >= 2_000


def test_quality_is_that_of_the_two_topics(demo: Demo) -> None:
    version = demo.facts["retrain"]["model_version"]
    labels = {i["event_id"]: i["label"] for i in demo.records("fraud.interactions.v1")}
    rows = [
        (p["predicted_at"], labels[p["event_id"]], p["scores"][0])
        for p in demo.records("fraud.predictions.v1")
        if (p["model_version"], p["variant"]) == (version, "champion") and p["event_id"] in labels
    ]
    _, y, scores = map(np.array, zip(*sorted(rows), strict=True))
    ours = demo.facts["auc"]["after_promotion"]["champion"]
    assert roc_auc_score(y, scores) == pytest.approx(ours, abs=0.005)
    shown = gauge(demo, "penstock_drift_auc", version=version)
    assert roc_auc_score(y[-20_000:], scores[-20_000:]) == pytest.approx(shown, abs=0.005)


def gauge(demo: Demo, name: str, **labels: str) -> float:
    text = requests.get(f"{demo.stack.component('drift')['endpoint']}/metrics", timeout=10).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"drift shows no {name} of {labels}")


def test_what_serves_is_what_was_tracked(demo: Demo) -> None:
    retrain = demo.facts["retrain"]
    url = f"{demo.stack.mlflow_url}/api/2.0/mlflow"
    asked = {"name": "fraud", "version": retrain["model_version"]}
    version = requests.get(f"{url}/model-versions/get", asked, timeout=10).json()["model_version"]
    assert version["run_id"] == retrain["run_id"]
    body = {
        "experiment_ids": ["1"],
        "filter": f"tags.`penstock.request_id` = '{retrain['request_id']}'",
    }
    runs = requests.post(f"{url}/runs/search", json=body, timeout=10).json()["runs"]
    assert [r["info"]["run_id"] for r in runs] == [retrain["run_id"]]
    tracked = list((demo.data_dir / "mlflow" / "artifacts").rglob("model.onnx"))
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tracked}
    served = demo.data_dir / "models" / f"fraud__{retrain['model_version']}" / "1" / "model.onnx"
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    assert digest in digests
    routed = demo.records("fraud.models.v1")[-1]["versions"][0]
    assert (routed["version"], routed["alias"], routed["weight"]) == (
        asked["version"],
        "champion",
        100,
    )
    assert routed["digest"] == f"sha256:{digest}"


def test_report_names_what_drifted_in_the_rows_of_the_window(demo: Demo) -> None:
    episode = demo.facts["alarm"]["episode_id"]
    report = json.loads((demo.data_dir / "reports" / "fraud" / f"{episode}.json").read_text())
    event = next(e for e in demo.records("fraud.drift.v1") if e["severity"] == "detected")
    assert report["rows"] == event["window"]["rows"]
    assert "error" in report["drifted"]
    assert Path(demo.facts["links"]["report"]).stat().st_size > 10_000
    assert Path(demo.facts["links"]["plot"]).read_bytes().startswith(b"\x89PNG")


def test_verbs_tell_the_story(demo: Demo) -> None:
    history = demo.verb("retrain", "ls", "fraud")
    assert json.dumps(history).count(demo.facts["retrain"]["request_id"]) >= 1
    assert demo.facts["alarm"]["episode_id"] in json.dumps(demo.verb("drift", "status", "fraud"))
    assert demo.facts["retrain"]["run_id"] in json.dumps(demo.verb("model", "ls", "fraud"))
