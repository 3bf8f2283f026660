"""Versions change while the stream runs: nothing fails, nothing waits for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.fault_pipeline import ServedPipeline, VectorStream
from harness.models import MAX_ROWS, MODEL_WIDTH, tiny_onnx, unserve
from harness.waiting import eventually
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_streaming.settings import KafkaSettings
from penstock_training.publish import Deployment, find_template, publish, served_name
from penstock_training.tracking import digest_of

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration]

RATE = 300.0
STEADY_S = 4.0
FAST = "{max_batch_rows: 400, commit_interval_ms: 20}"
SLACK_MS = 250.0
"""What a busy machine may add to a percentile of so few seconds, milliseconds."""


def published(pipeline: ServedPipeline, number: str) -> ModelVersion:
    """Publish a version, not loaded, and return it as a routing state names it."""
    name, content = served_name(pipeline.name, number), tiny_onnx(-4.0)
    template = find_template(Path(__file__))
    publish(
        pipeline.addresses.models_dir, Deployment(name, MODEL_WIDTH, MAX_ROWS, content), template
    )
    digest = digest_of(content)
    return ModelVersion(pipeline.name, number, name, "champion", 100, digest, "none", "serving")


def order(
    pipeline: ServedPipeline, change: Callable[[RoutingState], tuple[ModelVersion, ...]]
) -> None:
    """Write the next routing state."""
    registry = RegistryClient(RegistrySettings(url=pipeline.addresses.registry))
    kafka = KafkaSettings(bootstrap_servers=pipeline.addresses.kafka)
    topic = RoutingTopic(kafka, registry, pipeline.topics.models, pipeline.name)

    def following(now: RoutingState | None) -> RoutingState:
        assert now is not None
        at = time.time_ns() // 1_000_000
        return RoutingState(now.pipeline, now.revision + 1, at, "test", change(now))

    topic.write(following, 30.0)


def report(line: str) -> None:
    """Print a figure; it is what the test is read for."""
    print(line, flush=True)  # noqa: T201


def sleep_to(until: float) -> None:
    eventually(lambda: time.monotonic() >= until, STEADY_S * 4, "the time has come")


@pytest.mark.timeout(180)
def test_swap_under_load_fails_nothing(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(batching=FAST)
    pipeline.started_router()
    second = published(pipeline, "2")
    try:
        with VectorStream(pipeline, RATE) as stream:
            eventually(lambda: len(stream.answers) > RATE, 60, "it flows", unless=stream.still_runs)
            steady = time.monotonic()
            sleep_to(steady + STEADY_S)
            swap = time.monotonic()
            order(
                pipeline,
                lambda now: (
                    second,
                    replace(now.versions[0], alias="", weight=0, state="draining"),
                ),
            )

            def shifted() -> bool:
                return any(said[0]["model_version"] == "2" for said in [*stream.answers.values()])

            eventually(shifted, 60, "the second version answers")
            shift = time.monotonic()
            sleep_to(shift + 1.0)
            end = time.monotonic()
            sleep_to(end + 0.5)
    finally:
        unserve(pipeline.addresses, second.served_as)
    assert {len(said) for said in stream.answers.values()} == {1}, "each exactly once"
    outcomes = Counter(said[0]["outcome"] for said in stream.answers.values())
    assert set(outcomes) == {"predicted"}
    in_order = [stream.answers[event][0]["model_version"] for event in stream.sent_at]
    before, after = stream.p99_ms(steady, swap), stream.p99_ms(swap, end)
    report(
        f"swap: {len(in_order)} events, 0 failed, loaded and shifted in {shift - swap:.2f} s; "
        f"p99 {before:.1f} ms steady, {after:.1f} ms from the order to 1 s after the shift"
    )
    assert in_order[0] == "1"
    assert in_order[-1] == "2"
    assert after <= 2 * before + SLACK_MS
