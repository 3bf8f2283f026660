from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from penstock_features.history import history
from penstock_monitoring.psi import psi
from penstock_monitoring.reference import make_reference
from penstock_pipelines.loader import load_pipeline
from penstock_simulator.card_transactions import CardTransactions
from penstock_simulator.generators import Drift, DriftKind, make_generator
from penstock_training.training_set import training_set
from sklearn.metrics import roc_auc_score

START_MS = 1_750_000_000_000
FRAUD = load_pipeline(Path(__file__).parents[3] / "pipelines" / "fraud")


def draw(seed: int, n: int = 20_000, drift: Drift | None = None):  # type: ignore[no-untyped-def]
    generator = CardTransactions(seed)
    return generator.generate(n, START_MS, generator.events_per_s, drift)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("drift", [None, Drift("concept", 0)], ids=["usual", "changed"])
def test_oracle_is_good_and_fraud_is_rare(seed: int, drift: Drift | None) -> None:
    batch = draw(seed, drift=drift)
    assert roc_auc_score(batch.labels, batch.oracle) >= 0.95
    assert 0.01 <= batch.labels.mean() <= 0.03


def test_oracle_is_calibrated() -> None:
    batch = draw(5, n=60_000)
    for low, high in ((0.0, 0.01), (0.01, 0.1), (0.1, 0.5), (0.5, 1.0)):
        rows = (batch.oracle >= low) & (batch.oracle < high)
        error = 3 * np.sqrt(0.25 / rows.sum())
        assert abs(batch.labels[rows].mean() - batch.oracle[rows].mean()) < error


def test_columns_are_those_of_the_event_schema() -> None:
    names = [f["name"] for f in json.loads(FRAUD.event_schema)["fields"]]
    assert draw(1, n=10).columns.schema.names == names


def test_same_seed_gives_the_same_events_and_another_seed_others() -> None:
    first, again, other = draw(1, 1000), draw(1, 1000), draw(2, 1000)
    assert first.columns.equals(again.columns)
    assert np.array_equal(first.labels, again.labels)
    assert not first.columns.equals(other.columns)
    assert not set(first.event_ids) & set(other.event_ids)


def test_runs_at_different_times_share_no_event_id() -> None:
    first = CardTransactions(1).generate(100, START_MS, 0.2)
    later = CardTransactions(1).generate(100, START_MS + 1, 0.2)
    assert not set(first.event_ids) & set(later.event_ids)


def test_profiles_are_the_same_for_every_seed_and_cover_every_account() -> None:
    profiles = CardTransactions(1).profiles()
    assert profiles.equals(CardTransactions(2).profiles())
    assert set(draw(3, 5000).keys) <= set(profiles["account_id"])
    feast = {f.feast.split(":")[1] for f in FRAUD.config.features if f.feast}
    assert feast <= set(profiles.columns)


def test_concept_drift_starts_at_the_chosen_event_and_leaves_the_inputs_alone() -> None:
    usual, drifted = draw(4, 3000), draw(4, 3000, Drift("concept", 1234))
    assert usual.columns.equals(drifted.columns)
    changed = np.flatnonzero(usual.oracle != drifted.oracle)
    assert changed[0] == 1234
    assert len(changed) > 1700


def test_drift_counts_events_across_calls() -> None:
    generator = CardTransactions(4)
    first = generator.generate(1000, START_MS, 0.2, Drift("concept", 1500))
    second = generator.generate(1000, first.end_ms, 0.2, Drift("concept", 1500))
    control = CardTransactions(4)
    start = control.generate(1000, START_MS, 0.2)
    expected = control.generate(1000, start.end_ms, 0.2)
    assert np.array_equal(first.oracle, start.oracle)
    assert np.flatnonzero(second.oracle != expected.oracle)[0] == 500


def test_drift_of_kind_none_changes_nothing() -> None:
    usual, same = draw(4, 3000), draw(4, 3000, Drift("none", 0))
    assert usual.columns.equals(same.columns)
    assert np.array_equal(usual.oracle, same.oracle)


def test_label_drift_leaves_inputs_and_order_of_risks_alone_and_multiplies_the_positives() -> None:
    usual, drifted = draw(4, 40_000), draw(4, 40_000, Drift("label", 20_000))
    assert usual.columns.equals(drifted.columns)
    assert np.array_equal(usual.oracle[:20_000], drifted.oracle[:20_000])
    before, after = usual.oracle[20_000:], drifted.oracle[20_000:]
    assert np.array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))
    assert drifted.labels[20_000:].mean() > 2 * usual.labels[20_000:].mean()


def test_covariate_drift_moves_inputs_and_not_what_they_mean() -> None:
    usual, drifted = draw(4, 40_000), draw(4, 40_000, Drift("covariate", 20_000))
    assert usual.columns[:20_000].equals(drifted.columns[:20_000])
    before, after = (b.columns[20_000:].to_pandas() for b in (usual, drifted))
    assert after["amount"].median() > 1.2 * before["amount"].median()
    assert after["device_age_days"].median() < 0.5 * before["device_age_days"].median()
    online = [(f["channel"] == "online").mean() for f in (before, after)]
    assert online[1] > 1.2 * online[0]
    assert (after["account_id"] == before["account_id"]).all()
    assert roc_auc_score(drifted.labels[20_000:], drifted.oracle[20_000:]) >= 0.95
    for low, high in ((0.0, 0.01), (0.01, 0.1), (0.1, 0.5), (0.5, 1.0)):
        rows = (drifted.oracle >= low) & (drifted.oracle < high)
        error = 3 * np.sqrt(0.25 / rows.sum())
        assert abs(drifted.labels[rows].mean() - drifted.oracle[rows].mean()) < error


@pytest.mark.parametrize(
    ("kind", "moved"), [("none", False), ("covariate", True), ("concept", False), ("label", False)]
)
def test_only_covariate_drift_shows_in_the_monitored_features(kind: DriftKind, moved: bool) -> None:
    reference = training_set(FRAUD)
    config = FRAUD.config
    bins = make_reference(config.feature_names, reference.matrix, np.zeros(len(reference)))
    batch = draw(3, 10_000, Drift(kind, 5000))
    known = CardTransactions(3).profiles().set_index("account_id").loc[batch.keys]
    feast = {f.feast for f in config.features if f.feast}
    online = {name: known[name.split(":")[1]].to_numpy(np.float64) for name in feast}
    window = history(config, batch.columns, online)[5000:]
    scores = {
        h.name: psi(np.array(h.counts), h.count(window[:, config.feature_names.index(h.name)]))
        for h in bins.histograms
        if h.name in config.monitored_features
    }
    assert (max(scores.values()) >= 0.3) == moved, scores
    assert moved or max(scores.values()) < 0.05


def test_amounts_follow_category_and_account() -> None:
    frame = draw(6, 40_000).columns.to_pandas()
    median = frame.groupby("merchant_category")["amount"].median()
    assert median["travel"] > 3 * median["grocery"] > 3 * median["digital"]
    logs = np.log(frame["amount"])
    grocery = logs[frame["merchant_category"] == "grocery"]
    assert abs(grocery.skew()) < 0.2  # log-normal


def test_days_have_a_rhythm() -> None:
    batch = draw(6, 80_000)
    hours = np.bincount((batch.times_ms // 3_600_000 % 24).astype(int), minlength=24)
    assert hours[14:18].mean() > 3 * hours[2:6].mean()
    assert np.all(np.diff(batch.times_ms) >= 0)


@pytest.mark.parametrize("n", [10, 1000, 50_000])
def test_run_ends_shortly_before_the_chosen_time(n: int) -> None:
    generator = CardTransactions(1)
    start = generator.start_before(START_MS, n, generator.events_per_s)
    end = generator.generate(n, start, generator.events_per_s).end_ms
    assert 0 <= START_MS - end < 8 * 3_600_000


def test_unknown_generator_names_the_known_ones() -> None:
    with pytest.raises(Exception, match="card_transactions"):
        make_generator("weather", 1)
