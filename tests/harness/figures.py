"""Figures that components publish about themselves: Prometheus metrics, Triton's statistics."""

from __future__ import annotations

import json
import urllib.request
from typing import Final

from penstock_ledger import Counter
from penstock_ledger.records import Service
from prometheus_client.parser import text_string_to_metric_families

GET_TIMEOUT_S: Final = 10.0
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(url: str) -> bytes:
    """Return the body of an HTTP GET."""
    with urllib.request.urlopen(url, timeout=GET_TIMEOUT_S) as answer:  # noqa: S310 - own stack
        return bytes(answer.read())


def scrape(url: str) -> Figures:
    """Return every sample of a metrics endpoint by name and sorted labels."""
    return parse(get(url))


def parse(exposition: bytes) -> Figures:
    """Return every sample of an exposition by name and sorted labels."""
    found: Figures = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(figures: Figures, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have the given labels."""
    wanted = set(labels.items())
    return sum(v for (n, found), v in figures.items() if n == name and wanted <= set(found))


def counters(service: Service, topic: str, before: Figures, after: Figures) -> list[Counter]:
    """Return what a service counted of its input topic between two scrapes, for I14."""

    def grown(name: str, **labels: str) -> int:
        return round(
            total(after, name, topic=topic, **labels) - total(before, name, topic=topic, **labels)
        )

    outcomes = {"output": "features" if service == "ingest" else "predicted"}
    found = [Counter(service, "consumed", grown("penstock_records_total"))]
    for name, labels in after:
        named = dict(labels)
        if named.get("topic") != topic:
            continue
        if name == "penstock_records_total" and named["outcome"] != "dead_letter":
            outcome = outcomes.get(named["outcome"], "skipped")
            found.append(Counter(service, outcome, grown(name, outcome=named["outcome"])))
        if name == "penstock_dead_letters_total":
            kind = named["class"]
            found.append(Counter(service, f"dead:{kind}", grown(name, **{"class": kind})))
    return found


def triton_rows(triton_http_url: str) -> int:
    """Return the rows Triton has inferred since its start, by its own statistics."""
    base = triton_http_url if "://" in triton_http_url else f"http://{triton_http_url}"
    answer = json.loads(get(f"{base}/v2/models/stats"))
    return sum(int(model["inference_count"]) for model in answer["model_stats"])
