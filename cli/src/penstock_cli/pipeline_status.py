"""One pipeline as ``penstock status`` shows it: lag, time to drain, versions served."""

from __future__ import annotations

import math
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock_pipelines.model import PipelineConfig
    from penstock_stack.component import StackConfig

ANSWER_WITHIN_S = 1.0


def pipeline_status(config: StackConfig, folder: Path) -> dict[str, Any]:
    """Return name, lag, drain_s and models; None where the answer is not known in time."""
    from penstock_pipelines.loader import load_pipeline

    pipeline = load_pipeline(folder).config
    with ThreadPoolExecutor(max_workers=3) as pool:
        lag = pool.submit(total_lag, config, pipeline)
        drain_s = pool.submit(_drain_s, config, pipeline)
        models = pool.submit(_models, config, pipeline)
        records = lag.result()
        seconds = 0.0 if records == 0 else drain_s.result()
        return {
            "name": pipeline.pipeline,
            "lag": records,
            "drain_s": seconds,
            "models": models.result(),
        }


def total_lag(config: StackConfig, pipeline: PipelineConfig) -> int | None:
    """Return the records that ingest and inference have not committed yet, together."""
    from penstock_stack.group_lag import group_lag

    topics = pipeline.topic_names
    bootstrap = config.endpoints.address("KAFKA")
    hops = (("ingest", topics.events), ("inference", topics.features))
    lags = [
        group_lag(bootstrap, f"penstock-{service}-{pipeline.pipeline}", topic, ANSWER_WITHIN_S)
        for service, topic in hops
    ]
    known = [lag for lag in lags if lag is not None]
    return sum(known) if len(known) == len(lags) else None


def _drain_s(config: StackConfig, pipeline: PipelineConfig) -> float | None:
    """Return the slower hop's time to drain, from the services' own metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    topics = {pipeline.topic_names.events, pipeline.topic_names.features}
    found: list[float] = []
    for service in ("INGEST", "INFERENCE"):
        url = config.endpoints.url(service, "/metrics")
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as response:  # noqa: S310
                text = response.read().decode("utf-8", "replace")
        except OSError:
            continue
        found += [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "penstock_drain_seconds" and sample.labels.get("topic") in topics
        ]
    known = [value for value in found if math.isfinite(value)]
    return round(max(known), 1) if known else None


def _models(config: StackConfig, pipeline: PipelineConfig) -> list[dict[str, Any]]:
    from penstock_schemas.errors import PenstockError
    from penstock_stack.registry_server import API_PATH
    from penstock_streaming.registry import RegistryClient, RegistrySettings
    from penstock_streaming.routing_topic import RoutingTopic
    from penstock_streaming.settings import KafkaSettings

    url = config.endpoints.url("REGISTRY", API_PATH)
    topic = RoutingTopic(
        KafkaSettings(bootstrap_servers=config.endpoints.address("KAFKA")),
        RegistryClient(RegistrySettings(url=url, timeout_s=ANSWER_WITHIN_S)),
        pipeline.topic_names.models,
        pipeline.pipeline,
    )
    try:
        state = topic.latest(ANSWER_WITHIN_S)
    except PenstockError:
        return []
    if state is None:
        return []
    return [
        {"version": v.version, "alias": v.alias, "weight": v.weight, "state": v.state}
        for v in state.versions
    ]
