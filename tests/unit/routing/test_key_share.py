from __future__ import annotations

import numpy as np
import pytest
from penstock_routing.states import BUCKETS, NO_KEY, buckets

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
