"""Steps between routing states."""

from __future__ import annotations

import numpy as np
import pytest
from penstock_routing.states import (
    BUCKETS,
    NO_KEY,
    buckets,
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


ACCOUNTS = [f"acc-{i:05d}".encode() for i in range(2_000)]
NUMBERS = [str(i).encode() for i in range(2_000)]


@pytest.mark.parametrize("keys", [ACCOUNTS, NUMBERS], ids=["accounts", "numbers"])
@pytest.mark.parametrize("salt", ["fraud", "churn", "digits"])
@pytest.mark.parametrize("percent", [1, 10, 50])
def test_share_of_the_buckets_is_the_share_of_the_keys(
    keys: list[bytes], salt: str, percent: int
) -> None:
    share = np.mean(buckets(keys, salt) < percent * BUCKETS // 100)
    assert share == pytest.approx(percent / 100, abs=0.02)


def test_key_has_the_same_bucket_wherever_it_stands() -> None:
    whole = buckets(ACCOUNTS, "fraud")
    np.testing.assert_array_equal(buckets(ACCOUNTS[::-1], "fraud"), whole[::-1])
    assert buckets([ACCOUNTS[7]], "fraud").tolist() == [whole[7]]


def test_pipelines_do_not_share_their_canary_keys() -> None:
    both = (buckets(ACCOUNTS, "fraud") < 1_000) & (buckets(ACCOUNTS, "churn") < 1_000)
    assert both.mean() < 0.02


def test_record_without_key_has_no_bucket() -> None:
    assert buckets([None, b"a", None], "fraud").tolist()[::2] == [NO_KEY, NO_KEY]
    assert len(buckets([], "fraud")) == 0
