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
        asked = pool.submit(lags, config, topics)
        pages = [pool.submit(_metrics, config, service) for service in ("INGEST", "INFERENCE")]
        samples = [sample for page in pages for sample in read_samples(page.result())]
        found = asked.result()
    return {
        "name": topics.pipeline,
        "lag": total(found),
        "drain_s": drain_s(samples, found),
        "models": served_models(samples, topics.pipeline),
    }


def topics_of(folder: Path) -> PipelineTopics:
    """Return a pipeline's topic names; its file was validated when the stack started."""
    import yaml
    from penstock_schemas.topics import PipelineTopics

    document = yaml.safe_load((folder / "pipeline.yaml").read_text("utf-8"))
    return PipelineTopics(folder.name, document.get("topics") or {})


Lags = dict[str, int | None]
"""Records before a hop by its input topic; None where it is not known."""


def lags(config: StackConfig, topics: PipelineTopics) -> Lags:
    """Return the records that ingest and inference have not committed yet, as the broker knows."""
    from penstock_stack.group_lag import group_lag

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


def _metrics(config: StackConfig, service: str) -> str:
    url = config.endpoints.url(service, "/metrics")
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S) as response:  # noqa: S310
            return str(response.read(), "utf-8", "replace")
    except OSError:
        return ""
