"""Stands in for the training job: says started, waits to be let go, says finished.

``STAND_IN_DIR`` is the folder by which a test steers it: it adds a line to ``runs``; the file
``exit`` names the code to exit with at once; the file ``release`` lets it finish.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from confluent_kafka import Producer
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.codec import encode_one
from penstock_schemas.records import RetrainEvent
from penstock_schemas.schema_files import schema_text
from penstock_schemas.topics import PipelineTopics

LONGEST_S = 120.0


def main() -> int:
    folder = Path(os.environ["STAND_IN_DIR"])
    parser = argparse.ArgumentParser()
    for name in ("request-id", "pipeline-dir", "kafka", "registry", "mlflow", "triton-grpc"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--models-dir", required=True)
    options = parser.parse_args()
    with (folder / "runs").open("a") as runs:
        runs.write(f"{os.getpid()} {os.nice(0)} {options.request_id}\n")
    write(options, "started")
    code, release = folder / "exit", folder / "release"
    pause = threading.Event()
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        if code.exists():
            print("no use: the stand-in was told to fail")  # noqa: T201 - its last words
            return int(code.read_text())
        if release.exists():
            write(options, "finished", verdict="promoted", model_version="2")
            return 0
        pause.wait(0.1)
    return 3


def write(options: argparse.Namespace, state: str, **facts: str) -> None:
    pipeline = Path(options.pipeline_dir).name
    topic = PipelineTopics(pipeline).retrain
    schema = schema_text("retrain_event.avsc")
    schema_id = RegistryClient(RegistrySettings(url=options.registry)).register(
        f"{topic}-value", schema
    )
    request = RetrainEvent.request(options.request_id, pipeline, 0, "cli")
    event = request.followed_by(state, time.time_ns() // 1_000_000, actor="stand-in", **facts)
    producer = Producer(
        {
            "bootstrap.servers": options.kafka,
            "transactional.id": f"penstock-retrain-{options.request_id}",
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, encode_one(schema, schema_id, event.to_dict()), pipeline.encode(), 0)
    producer.commit_transaction(30)


if __name__ == "__main__":
    sys.exit(main())
