from __future__ import annotations

import numpy as np
import pytest
from penstock_simulator.arrivals import RecentActivity, arrival_times, draw_accounts


def test_recent_activity_is_the_decayed_count_of_earlier_events() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 50_000, 400))
    accounts = rng.integers(0, 7, 400)
    expected = np.array(
        [
            sum(
                0.5 ** ((times[i] - times[j]) / 3600)
                for j in range(i)
                if accounts[j] == accounts[i]
            )
            for i in range(400)
        ]
    )
    whole = RecentActivity(7, 3600.0).observe(accounts, times)
    assert whole == pytest.approx(expected)
    parts = RecentActivity(7, 3600.0)
    split = [parts.observe(accounts[a : a + 50], times[a : a + 50]) for a in range(0, 400, 50)]
    assert np.concatenate(split) == pytest.approx(expected)


def test_arrivals_keep_their_mean_rate() -> None:
    times = arrival_times(np.random.default_rng(1), 50_000, 0.0, 0.2)
    assert 50_000 / times[-1] == pytest.approx(0.2, rel=0.06)


def test_bursts_make_accounts_return_soon() -> None:
    rng = np.random.default_rng(2)
    times = np.arange(20_000) * 5.0
    accounts = draw_accounts(rng, times, np.full(5000, 1 / 5000))
    order = np.argsort(accounts, kind="stable")
    same = accounts[order][1:] == accounts[order][:-1]
    gaps = np.diff(times[order])[same]
    assert (gaps < 900).mean() > 0.1
