"""What status reads from the services' metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from penstock_cli.pipeline_status import drain_s, read_samples, served_models, topics_of
from penstock_schemas.topics import PipelineTopics

TOPICS = PipelineTopics("fraud")
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
    assert drain_s(list(read_samples(PAGE)), TOPICS) == 4.0


@pytest.mark.parametrize("value", ["+Inf", "NaN"])
def test_a_lag_that_grows_has_no_time_to_drain(value: str) -> None:
    page = PAGE + f'penstock_drain_seconds{{partition="2",topic="fraud.events.v1"}} {value}\n'
    assert drain_s(list(read_samples(page)), TOPICS) is None
    assert drain_s([], TOPICS) is None


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
