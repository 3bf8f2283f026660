"""One pipeline as ``penstock status`` shows it: lag, time to drain, versions served.

Asks the broker and the services' metrics only, and imports little: the answer has two seconds.
"""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from penstock_schemas.topics import PipelineTopics
    from penstock_stack.component import StackConfig

ANSWER_WITHIN_S: Final = 0.8
_SAMPLE: Final = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
_ALIASES: Final = {"champion": "champion", "canary": "challenger"}
"""Alias of the version that answers as a variant."""
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


def pipeline_status(config: StackConfig, folder: Path) -> dict[str, Any]:
    """Return name, lag, drain_s and models; None where the answer is not known in time."""
    topics = topics_of(folder)
    with ThreadPoolExecutor(max_workers=3) as pool:
        lag = pool.submit(total_lag, config, topics)
        pages = [pool.submit(_metrics, config, service) for service in ("INGEST", "INFERENCE")]
        samples = [sample for page in pages for sample in read_samples(page.result())]
        records = lag.result()
    return {
        "name": topics.pipeline,
        "lag": records,
        "drain_s": 0.0 if records == 0 else drain_s(samples, topics),
        "models": served_models(samples, topics.pipeline),
    }


def topics_of(folder: Path) -> PipelineTopics:
    """Return a pipeline's topic names; its file was validated when the stack started."""
    import yaml
    from penstock_schemas.topics import PipelineTopics

    document = yaml.safe_load((folder / "pipeline.yaml").read_text("utf-8"))
    return PipelineTopics(folder.name, document.get("topics") or {})


def total_lag(config: StackConfig, topics: PipelineTopics) -> int | None:
    """Return the records that ingest and inference have not committed yet, together."""
    from penstock_stack.group_lag import group_lag

    bootstrap = config.endpoints.address("KAFKA")
    hops = (("ingest", topics.events), ("inference", topics.features))

    def ask(hop: tuple[str, str]) -> int | None:
        service, topic = hop
        group = f"penstock-{service}-{topics.pipeline}"
        return group_lag(bootstrap, group, topic, ANSWER_WITHIN_S)

    with ThreadPoolExecutor(max_workers=len(hops)) as pool:
        lags = list(pool.map(ask, hops))
    known = [lag for lag in lags if lag is not None]
    return sum(known) if len(known) == len(lags) else None


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


def drain_s(samples: list[Sample], topics: PipelineTopics) -> float | None:
    """Return the slowest partition's time to drain; None where the lag grows or is not known."""
    names = {topics.events, topics.features}
    found = [
        value
        for name, labels, value in samples
        if name == "penstock_drain_seconds" and labels.get("topic") in names
    ]
    return round(max(found), 1) if found and all(map(math.isfinite, found)) else None


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


def _metrics(config: StackConfig, service: str) -> str:
    url = config.endpoints.url(service, "/metrics")
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as response:  # noqa: S310
            return str(response.read(), "utf-8", "replace")
    except OSError:
        return ""
