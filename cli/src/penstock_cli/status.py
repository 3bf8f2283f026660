"""``penstock status``: every component, and of every pipeline lag, time to drain, versions served.

Asks the supervisor's state, the broker and the services' metrics only, and imports little: the
answer has two seconds.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from penstock_cli import console
from penstock_cli.options import (
    DEFAULT_DATA_DIR,
    DataDir,
    ExitCode,
    OutputFormat,
    global_options,
    recorded_state,
    topics_of,
)

if TYPE_CHECKING:
    from penstock_schemas.topics import PipelineTopics
    from penstock_stack.component import StackConfig
    from penstock_stack.state import StackState

ANSWER_WITHIN_S: Final = 0.8
_SAMPLE: Final = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_ALIASES: Final = {"champion": "champion", "canary": "challenger"}
"""Alias of the version that answers as a variant."""
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_SILENT: Final = logging.getLogger("penstock_cli.status.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def status(context: typer.Context, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show every component and every pipeline; answers within two seconds."""
    data_dir = data_dir.resolve()
    state = recorded_state(data_dir)
    if not state.ports:
        console.note(f"no stack on {data_dir}; start one with 'penstock up'")
        if global_options(context).output is OutputFormat.json:
            console.result_json({"phase": "stopped", "components": [], "pipelines": []})
        raise typer.Exit(ExitCode.UNREACHABLE)
    report = collect(data_dir, state)
    if global_options(context).output is OutputFormat.json:
        console.result_json(report)
    else:
        console.result_table(("name", "state", "endpoint", "pids", "nodes"), report["components"])
        if report["pipelines"]:
            console.result("")
            console.result_table(("name", "lag", "drain_s", "models"), _flat(report["pipelines"]))
    if report["phase"] == "stopped":
        raise typer.Exit(ExitCode.UNREACHABLE)


def collect(data_dir: Any, state: StackState) -> dict[str, Any]:
    """Return the contract's status document."""
    import os
    from dataclasses import asdict

    from penstock_stack.artifacts import cache_dir
    from penstock_stack.component import StackConfig
    from penstock_stack.status import component_statuses, endpoints_of

    from penstock_cli.up import components

    config = StackConfig(
        data_dir, cache_dir(os.environ), endpoints_of(state), tuple(map(Path, state.pipelines))
    )
    runs = state.phase not in ("stopped", "failed")
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(pipelines, config) if runs else None
        found = component_statuses(config, components(config), state)
        return {
            "phase": state.phase if state.is_supervised or not runs else "unsupervised",
            "components": [
                {**asdict(c), "pids": list(c.pids), "nodes": list(c.nodes)} for c in found
            ],
            "pipelines": asked.result() if asked is not None else [],
        }


def pipelines(config: StackConfig) -> list[dict[str, Any]]:
    """Ask about every pipeline at the same time: one that answers late delays no other."""
    if not config.pipelines:
        return []
    with ThreadPoolExecutor(max_workers=len(config.pipelines)) as pool:
        return list(pool.map(lambda folder: pipeline_status(config, folder), config.pipelines))


def _flat(pipelines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**p, "models": [_model(m) for m in p["models"]]} for p in pipelines]


def _model(served: dict[str, Any]) -> str:
    """Return a served version in one word or two, such as ``7:champion(90%)``."""
    alias = f":{served['alias']}" if served["alias"] else ""
    return f"{served['version']}{alias}({served['weight']:g}%)"


def pipeline_status(config: StackConfig, folder: Path) -> dict[str, Any]:
    """Return name, lag, drain_s and models; None where the answer is not known in time."""
    topics = topics_of(folder)
    with ThreadPoolExecutor(max_workers=3) as pool:
        asked = pool.submit(lags, config, topics)
        pages = [pool.submit(metrics_page, config, name) for name in ("INGEST", "INFERENCE")]
        samples = [sample for page in pages for sample in read_samples(page.result() or "")]
        found = asked.result()
    return {
        "name": topics.pipeline,
        "lag": total(found),
        "drain_s": drain_s(samples, found),
        "models": served_models(samples, topics.pipeline),
    }


Lags = dict[str, int | None]
"""Records before a hop by its input topic; None where it is not known."""


def lags(config: StackConfig, topics: PipelineTopics) -> Lags:
    """Return the records that ingest and inference have not committed yet, as the broker knows."""
    bootstrap = config.endpoints.address("KAFKA")
    hops = (("ingest", topics.events), ("inference", topics.features))

    def ask(hop: tuple[str, str]) -> int | None:
        service, topic = hop
        group = f"penstock-{service}-{topics.pipeline}"
        return group_lag(bootstrap, group, topic, ANSWER_WITHIN_S)

    with ThreadPoolExecutor(max_workers=len(hops)) as pool:
        return dict(zip((topic for _, topic in hops), pool.map(ask, hops), strict=True))


def total(found: Lags) -> int | None:
    """Return the records before all hops; None where one of them is not known."""
    known = [lag for lag in found.values() if lag is not None]
    return sum(known) if len(known) == len(found) else None


Sample = tuple[str, dict[str, str], float]


def read_samples(page: str) -> Iterator[Sample]:
    """Return name, labels and value of each labelled sample of a metrics page.

    Examples
    --------
    >>> list(read_samples('penstock_lag_records{topic="a",partition="0"} 3.0'))
    [('penstock_lag_records', {'topic': 'a', 'partition': '0'}, 3.0)]
    """
    for name, labels, value in _SAMPLE.findall(page):
        yield name, dict(_LABEL.findall(labels)), float(value)


def drain_s(samples: list[Sample], found: Lags) -> float | None:
    """Return the slowest partition's time to drain, over both hops.

    None where the lag of a hop grows or is not known, or nobody works on it, as while its service
    is stopped: it will not drain by itself.
    """
    slowest = 0.0
    for topic, lag in found.items():
        if lag == 0:
            continue
        known = [
            value
            for name, labels, value in samples
            if name == "penstock_drain_seconds" and labels.get("topic") == topic
        ]
        if lag is None or not known or not all(map(math.isfinite, known)):
            return None
        slowest = max(slowest, *known)
    return round(slowest, 1)


def served_models(samples: list[Sample], pipeline: str) -> list[dict[str, Any]]:
    """Return version, alias and weight in percent of what the routers serve."""
    return [
        {
            "version": labels["version"],
            "alias": _ALIASES.get(labels.get("variant", ""), ""),
            "weight": value,
        }
        for name, labels, value in samples
        if name == "penstock_served_weight_percent"
        and labels.get("pipeline") == pipeline
        and value > 0  # what serves no more stays there with weight 0
    ]


def metrics_page(
    config: StackConfig, service: str, timeout_s: float = ANSWER_WITHIN_S
) -> str | None:
    """Return a service's metrics; None if it does not answer in time."""
    import urllib.request

    url = config.endpoints.url(service, "/metrics")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310
            return str(response.read(), "utf-8", "replace")
    except OSError:
        return None


def group_lag(bootstrap_servers: str, group: str, topic: str, timeout_s: float) -> int | None:
    """Return the records between a group's committed offsets and the last stable ones.

    A partition without a committed offset counts from its beginning.

    Returns
    -------
    None where no broker answers in time or there is no such topic.
    """
    from confluent_kafka import IsolationLevel, KafkaException
    from confluent_kafka import TopicPartition as Partition
    from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

    settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "logger": _SILENT}
    admin = AdminClient(settings)
    try:
        found = admin.list_topics(topic, timeout=timeout_s).topics[topic]
        partitions = [Partition(topic, number) for number in found.partitions]
        if not partitions:
            return None

        def offsets(spec: Any) -> dict[int, int]:
            futures = admin.list_offsets(
                dict.fromkeys(partitions, spec),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=timeout_s,
            )
            return {p.partition: f.result(timeout_s).offset for p, f in futures.items()}

        done = _committed({**settings, "group.id": group}, partitions, timeout_s)
        begin: dict[int, int] = {}
        if len(done) < len(partitions):
            begin = offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end: dict[int, int] = offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]
    except (KafkaException, TimeoutError):
        return None
    behind: list[int] = [end[number] - done.get(number, begin.get(number, 0)) for number in end]
    return sum(max(0, records) for records in behind)


def _committed(settings: dict[str, Any], partitions: list[Any], timeout_s: float) -> dict[int, int]:
    """Return a group's offsets.

    Not by the admin client: librdkafka 2.16 dies of SIGSEGV in its list_consumer_group_offsets when
    the group's coordinator moves meanwhile.
    """
    from confluent_kafka import Consumer

    consumer = Consumer({**settings, "enable.auto.commit": False})
    try:
        found = consumer.committed(partitions, timeout_s)
    finally:
        consumer.close()
    return {p.partition: p.offset for p in found if p.error is None and p.offset >= 0}
