"""Steps between routing states."""

from __future__ import annotations

import pytest
from penstock_routing.states import (
    find,
    following,
    forgotten,
    job_of,
    retired,
    succeeded,
    writer_of,
)
from penstock_schemas.records import ModelVersion, RoutingState

ONE = ModelVersion("m", "1", "m__1", "champion", 100, "sha256:0", "run", "serving")
STATE = RoutingState("m", 4, 0, "cli:ann", (ONE,))


def test_the_next_revision_says_who_and_when() -> None:
    found = following(STATE, [ONE], "cli:bob", 9)
    assert (found.revision, found.updated_by, found.updated_at) == (5, "cli:bob", 9)
    assert (found.pipeline, found.versions) == ("m", (ONE,))
    assert writer_of(found) == "cli:bob (revision 5)"


def test_a_succeeded_champion_keeps_its_name_until_another_one_takes_it() -> None:
    before = succeeded(ONE)
    assert (before.alias, before.weight, before.state) == ("previous", 0, "draining")
    assert (retired(before).alias, retired(before).state) == ("previous", "retired")
    assert (forgotten(before).alias, forgotten(before).state) == ("", "retired")
    assert forgotten(ONE) is ONE


def test_other_versions_lose_their_alias_when_they_retire() -> None:
    assert (retired(ONE).alias, retired(ONE).weight, retired(ONE).state) == ("", 0, "retired")


def test_a_version_is_found_by_its_number() -> None:
    assert find(STATE, "1") is ONE
    assert find(STATE, "2") is None


@pytest.mark.parametrize(
    ("writer", "job"),
    [("retrain-job/r1", "r1"), ("retrain-job", None), ("cli:ann", None), ("first-model", None)],
)
def test_only_a_job_s_state_names_its_request(writer: str, job: str | None) -> None:
    assert job_of(following(STATE, [], writer, 0)) == job
