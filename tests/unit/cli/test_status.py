"""What status reads from the services' metrics."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from penstock_cli import status
from penstock_cli.options import topics_of
from penstock_cli.status import drain_s, read_samples, served_models, total
from penstock_stack.component import StackConfig
from penstock_stack.endpoints import Endpoints

EVENTS, FEATURES = "fraud.events.v1", "fraud.features.v1"
PAGE = """
# HELP penstock_drain_seconds Time until the lag is gone at the present rates.
penstock_drain_seconds{partition="0",topic="fraud.events.v1"} 1.26
penstock_drain_seconds{partition="1",topic="fraud.features.v1"} 4.0
penstock_drain_seconds{partition="1",topic="churn.events.v1"} 99.0
penstock_served_weight_percent{model="fraud",pipeline="fraud",variant="champion",version="7"} 90.0
penstock_served_weight_percent{model="fraud",pipeline="fraud",variant="canary",version="8"} 10.0
penstock_served_weight_percent{model="fraud",pipeline="fraud",variant="champion",version="6"} 0.0
penstock_served_weight_percent{model="churn",pipeline="churn",version="1"} 100.0
process_open_fds 12.0
"""


def test_the_slowest_partition_of_the_pipeline_counts() -> None:
    samples = list(read_samples(PAGE))
    assert drain_s(samples, {EVENTS: 10, FEATURES: 10}) == 4.0
    assert drain_s(samples, {EVENTS: 10, FEATURES: 0}) == 1.3


def test_a_pipeline_without_lag_is_drained_whatever_the_services_say() -> None:
    assert drain_s([], {EVENTS: 0, FEATURES: 0}) == 0.0


@pytest.mark.parametrize("value", ["+Inf", "NaN"])
def test_a_lag_that_grows_has_no_time_to_drain(value: str) -> None:
    page = PAGE + f'penstock_drain_seconds{{partition="2",topic="fraud.events.v1"}} {value}\n'
    assert drain_s(list(read_samples(page)), {EVENTS: 10, FEATURES: 0}) is None


def test_a_hop_on_which_nobody_works_does_not_drain() -> None:
    others = [s for s in read_samples(PAGE) if s[1].get("topic") != EVENTS]
    assert drain_s(others, {EVENTS: 10, FEATURES: 0}) is None
    assert drain_s(others, {EVENTS: 0, FEATURES: 10}) == 4.0
    assert drain_s(others, {EVENTS: None, FEATURES: 0}) is None


def test_the_lag_is_that_of_both_hops_or_not_known() -> None:
    assert total({EVENTS: 3, FEATURES: 4}) == 7
    assert total({EVENTS: 3, FEATURES: None}) is None


def test_a_pipeline_that_answers_late_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10)

    def answer(_: object, folder: Path) -> dict[str, str]:
        both.wait()
        return {"name": folder.name}

    monkeypatch.setattr(status, "pipeline_status", answer)
    config = StackConfig(Path(), Path(), Endpoints({}), (Path("a"), Path("b")))
    assert status.pipelines(config) == [{"name": "a"}, {"name": "b"}]


def test_the_versions_served_are_those_of_the_pipeline() -> None:
    assert served_models(list(read_samples(PAGE)), "fraud") == [
        {"version": "7", "alias": "champion", "weight": 90.0},
        {"version": "8", "alias": "challenger", "weight": 10.0},
    ]


def test_topic_names_may_be_overridden(tmp_path: Path) -> None:
    folder = tmp_path / "fraud"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text("pipeline: fraud\ntopics: {events: payments}\n")
    topics = topics_of(folder)
    assert (topics.events, topics.features) == ("payments", "fraud.features.v1")
