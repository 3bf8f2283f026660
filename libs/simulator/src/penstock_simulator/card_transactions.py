"""Card transactions: who pays what, where and when, and which of them are fraud.

The accounts of the simulated bank are fixed, whatever the seed of their transactions. The
probability of a fraud is a function of what can be seen, by concept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from penstock_simulator.arrivals import (
    DAY_S,
    RecentActivity,
    arrival_times,
    draw_accounts,
    start_before,
)
from penstock_simulator.generators import Drift, SimulatedBatch

_CATEGORY_SHARES: Final = (0.27, 0.17, 0.10, 0.14, 0.07, 0.05, 0.05, 0.09, 0.02, 0.04)
_CATEGORY_LEVEL: Final = np.array([0.0, 0.0, 0.6, 0.4, -0.4, 1.8, 1.4, -0.8, 0.5, 1.1])
"""Log of the median amount in a category against the account's typical amount."""
_AMOUNT_SPREAD: Final = 0.65
"""Standard deviation of the log amount of one account in one category."""
_ONLINE_LOG_ODDS: Final = np.array([-2.5, -2.0, -6.0, 0.0, -1.8, 0.8, 0.6, 4.0, 2.5, -6.0])
_MERCHANTS: Final = 40
"""Merchants per category."""
_VELOCITY_HALF_LIFE_S: Final = 3600.0
_DEVICE_LOG_MEAN: Final = 5.0
_DEVICE_LOG_STD: Final = 1.3
_DEVICE_LOG_MAX: Final = math.log1p(3_650.0)
"""Ten years: no device is older, and the rules of the pipeline allow no more than a hundred."""
_NIGHT_PEAK_H: Final = 2.5
_DEARER: Final = 0.5
_MORE_ONLINE: Final = 1.0
_YOUNGER: Final = 1.0
"""Covariate drift, in standard deviations of log amount, log-odds, and standard deviations of log
device age."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class CardTransactions:
    """Seeded card transactions of a fixed set of accounts.

    The same seed and the same calls give the same events. Histories (bursts, velocity) go on from
    call to call.

    Parameters
    ----------
    seed
        Seed of the transactions; the accounts are the same for every seed.
    accounts
        Number of accounts.

    Examples
    --------
    >>> batch = CardTransactions(1).generate(1000, start_ms=0, rate=0.2)
    >>> len(batch), batch.columns.schema.names[:2]
    (1000, ['event_id', 'account_id'])
    """

    def __init__(self, seed: int, accounts: int = 2000) -> None:
        self._seed = seed
        self._rng = np.random.default_rng([seed, 1])
        self._population = make_population(accounts)
        self._activity = RecentActivity(accounts, _VELOCITY_HALF_LIFE_S)
        self._drawn = 0
        self._run = ""
        self.events_per_s = accounts * 7.0 / DAY_S

    def profiles(self) -> pd.DataFrame:
        """Return the accounts' master data; the same for every seed."""
        return self._population.profiles()

    def start_before(self, end_ms: int, n: int, rate: float) -> int:
        """Return a ``start_ms`` from which ``n`` events end shortly before ``end_ms``."""
        return int(start_before(end_ms / 1000, n, rate) * 1000)

    def generate(
        self, n: int, start_ms: int, rate: float, drift: Drift | None = None
    ) -> SimulatedBatch:
        """Draw the next ``n`` transactions; see `EventGenerator.generate`."""
        rng = self._rng
        times_ms = (arrival_times(rng, n, start_ms / 1000, rate) * 1000).astype(np.int64)
        accounts = draw_accounts(rng, times_ms / 1000, self._population.activity)
        category = rng.choice(len(CATEGORIES), n, p=_CATEGORY_SHARES)
        moved = self._drifted(n, drift, "covariate").astype(np.float64)
        channel = self._draw_channels(accounts, category, moved * _MORE_ONLINE)
        deviation = rng.normal(0.0, 1.0, n) + moved * _DEARER
        device_log = rng.normal(_DEVICE_LOG_MEAN, _DEVICE_LOG_STD, n)
        device_log -= moved * _YOUNGER * _DEVICE_LOG_STD
        device_log = np.clip(device_log, 0.0, _DEVICE_LOG_MAX)
        # Terminals in shops often do not tell the device.
        device_known = (channel >= ONLINE) | (rng.random(n) < 0.5)
        device = np.where(device_known, (_DEVICE_LOG_MEAN - device_log) / _DEVICE_LOG_STD, 0.0)
        signals = self._signals(times_ms, accounts, category, channel, deviation, device)
        oracle = self._risk(signals, drift)
        labels = (rng.random(n) < oracle).astype(np.float64)
        ids = self._event_ids(n, start_ms)
        keys = [self._population.ids[a] for a in accounts.tolist()]
        columns = pa.RecordBatch.from_pydict(
            {
                "event_id": pa.array(ids),
                "account_id": pa.array(keys),
                "event_time": pa.array(times_ms, pa.timestamp("ms")),
                **self._purchase(accounts, category, channel, deviation),
                "device_age_days": pa.array(np.round(np.expm1(device_log), 1), mask=~device_known),
            }
        )
        lag = rng.uniform(0.5, 1.5, n)
        return SimulatedBatch(columns, ids, keys, times_ms, labels, lag, oracle)

    def _event_ids(self, n: int, start_ms: int) -> list[str]:
        if not self._run:
            # Runs of one seed at different times must not share ids.
            identity = f"{self._seed}/{start_ms}".encode()
            self._run = hashlib.blake2b(identity, digest_size=5).hexdigest()
        first = self._drawn
        self._drawn += n
        return [f"{self._run}-{i:08d}" for i in range(first, first + n)]

    def _draw_channels(self, accounts: Ints, category: Ints, habit: Floats) -> Ints:
        n = len(accounts)
        log_odds = _ONLINE_LOG_ODDS[category] + self._population.online_habit[accounts] + habit
        remote = self._rng.random(n) < 1.0 / (1.0 + np.exp(-log_odds))
        second = self._rng.random(n)
        shop = np.where(second < 0.45, CHANNELS.index("chip"), CHANNELS.index("contactless"))
        distance = np.where(second < 0.12, CHANNELS.index("phone"), ONLINE)
        return np.where(remote, distance, shop)

    def _signals(
        self,
        times_ms: Ints,
        accounts: Ints,
        category: Ints,
        channel: Ints,
        deviation: Floats,
        device: Floats,
    ) -> Signals:
        who = self._population
        hour = times_ms / 3_600_000 % 24
        recent = self._activity.observe(accounts, times_ms / 1000)
        home = np.log(who.home_risk / (1.0 - who.home_risk))
        return Signals(
            amount=deviation,
            home=home[accounts] + 0.5,
            newness=6.6 - np.log(who.account_age_days)[accounts],
            device=device,
            velocity=(np.log1p(recent) - 0.3) / 0.35,
            night=np.cos((hour - _NIGHT_PEAK_H) * 2 * np.pi / 24),
            chargebacks=(np.log1p(who.chargebacks)[accounts] - 0.5) / 0.55,
            category=category,
            channel=channel,
        )

    def _risk(self, signals: Signals, drift: Drift | None) -> Floats:
        usual = USUAL.probability(signals)
        if drift is None or drift.kind not in _CONCEPTS:
            return usual
        changed = _CONCEPTS[drift.kind].probability(signals)
        return np.where(self._drifted(len(usual), drift, drift.kind), changed, usual)

    def _drifted(self, n: int, drift: Drift | None, kind: str) -> Bools:
        """Return which of the next ``n`` events come after a change of that kind."""
        if drift is None or drift.kind != kind:
            return np.zeros(n, np.bool_)
        return np.arange(self._drawn, self._drawn + n) >= drift.at_event

    def _purchase(
        self, accounts: Ints, category: Ints, channel: Ints, deviation: Floats
    ) -> dict[str, pa.Array]:
        """Return the columns that say what was bought, where and how."""
        n = len(accounts)
        rng = self._rng
        level = _CATEGORY_LEVEL[category] + _AMOUNT_SPREAD * deviation
        amount = self._population.typical_amount[accounts] * np.exp(level)
        merchant = category * _MERCHANTS + rng.integers(0, _MERCHANTS, n)
        merchants = [f"m{m:04d}" for m in range(len(CATEGORIES) * _MERCHANTS)]
        anywhere = rng.integers(0, len(COUNTRIES), n)
        country = np.where(rng.random(n) < 0.06, anywhere, self._population.home[accounts])
        return {
            "amount": pa.array(np.maximum(np.round(amount, 2), 0.01)),
            "currency": _named(("EUR",), np.zeros(n, np.int64)),
            "merchant_id": _named(merchants, merchant),
            "merchant_category": _named(CATEGORIES, category),
            "country": _named(COUNTRIES, country),
            "channel": _named(CHANNELS, channel),
            "card_present": pa.array(channel < ONLINE),
        }


def _named(names: Sequence[str], index: Ints) -> pa.Array:
    return pa.array(names).take(pa.array(index))


COUNTRIES: Final = ("DE", "FR", "NL", "PL", "ES", "IT", "GB", "US")
_COUNTRY_SHARES: Final = (0.40, 0.14, 0.10, 0.10, 0.09, 0.08, 0.06, 0.03)
_POPULATION_SEED: Final = 20_011


@dataclass(frozen=True, slots=True)
class Population:
    """Accounts, one row each; every array has shape (accounts,).

    Parameters
    ----------
    activity
        Share of all transactions; sums to 1.
    typical_amount
        The account's spending level in units of currency.
    home_risk
        Risk index of the home region, in (0, 1).
    online_habit
        Added log-odds of paying without the card present.
    home
        Index into `COUNTRIES`.
    """

    ids: list[str]
    activity: Floats
    typical_amount: Floats
    credit_limit: Floats
    account_age_days: Floats
    home_risk: Floats
    chargebacks: Floats
    online_habit: Floats
    home: npt.NDArray[np.int64]

    def profiles(self) -> pd.DataFrame:
        """Return the bank's master data: the join key and one column per Feast feature."""
        return pd.DataFrame(
            {
                "account_id": self.ids,
                "credit_limit": self.credit_limit,
                "account_age_days": self.account_age_days,
                "home_risk": self.home_risk,
                "typical_amount": self.typical_amount,
                "chargebacks": self.chargebacks,
            }
        )


def make_population(accounts: int) -> Population:
    """Return the same accounts on every call.

    The master data belong to the bank, not to one run of the simulator: producers with different
    seeds share them.
    """
    rng = np.random.default_rng(_POPULATION_SEED)
    activity = rng.gamma(1.5, 1.0, accounts) + 0.05
    typical: Floats = np.exp(rng.normal(3.2, 0.6, accounts))
    age: Floats = np.exp(rng.normal(6.6, 1.0, accounts))
    return Population(
        ids=[f"a{i:06d}" for i in range(accounts)],
        activity=activity / activity.sum(),
        typical_amount=np.floor(typical * 100) / 100,
        credit_limit=np.floor(typical * np.exp(rng.normal(4.2, 0.5, accounts)) / 100) * 100 + 100.0,
        account_age_days=np.floor(age) + 1.0,
        home_risk=1.0 / (1.0 + np.exp(-rng.normal(-0.5, 1.0, accounts))),
        chargebacks=rng.negative_binomial(0.7, 0.4, accounts).astype(np.float64),
        online_habit=rng.normal(0.0, 0.7, accounts),
        home=rng.choice(len(COUNTRIES), accounts, p=_COUNTRY_SHARES),
    )


CATEGORIES: Final = (
    "grocery",
    "restaurant",
    "fuel",
    "retail",
    "pharmacy",
    "travel",
    "electronics",
    "digital",
    "gambling",
    "cash",
)
CHANNELS: Final = ("chip", "contactless", "online", "phone")
ONLINE: Final = CHANNELS.index("online")


@dataclass(frozen=True, slots=True)
class Signals:
    """What the risk depends on, per transaction; arrays of shape (n,), scaled to about N(0, 1).

    Parameters
    ----------
    amount
        Log of the amount against the account's habit in that category.
    newness
        Youth of the account.
    device
        Youth of the device; 0 where it is not known.
    velocity
        Recent activity of the account.
    night
        Closeness to the small hours, in [-1, 1].
    category, channel
        Indices into `CATEGORIES` and `CHANNELS`.
    """

    amount: Floats
    home: Floats
    newness: Floats
    device: Floats
    velocity: Floats
    night: Floats
    chargebacks: Floats
    category: Ints
    channel: Ints


@dataclass(frozen=True, slots=True)
class Concept:
    """Weights of one state of the fraudsters' habits."""

    intercept: float
    amount: float
    home: float
    newness: float
    device: float
    velocity: float
    night: float
    chargebacks: float
    category: tuple[float, ...]
    channel: tuple[float, ...]
    amount_online: float
    velocity_home: float
    night_device: float

    def probability(self, s: Signals) -> Floats:
        """Return the probability of fraud, shape (n,)."""
        log_odds = (
            self.intercept
            + self.amount * s.amount
            + self.home * s.home
            + self.newness * s.newness
            + self.device * s.device
            + self.velocity * s.velocity
            + self.night * s.night
            + self.chargebacks * s.chargebacks
            + np.asarray(self.category)[s.category]
            + np.asarray(self.channel)[s.channel]
            + self.amount_online * s.amount * (s.channel == ONLINE)
            + self.velocity_home * np.maximum(s.velocity, 0.0) * s.home
            + self.night_device * s.night * s.device
        )
        return np.asarray(1.0 / (1.0 + np.exp(-log_odds)))


USUAL: Final = Concept(
    intercept=-8.0,
    amount=1.1,
    home=0.95,
    newness=1.0,
    device=1.1,
    velocity=0.75,
    night=0.9,
    chargebacks=0.9,
    category=(-1.2, -0.8, -0.9, 0.0, -0.6, 0.6, 1.5, 1.0, 1.7, 1.0),
    channel=(-0.8, -0.3, 0.9, 1.2),
    amount_online=0.8,
    velocity_home=0.45,
    night_device=0.6,
)
"""Large amounts at night, new devices, online, electronics and gambling."""

CHANGED: Final = Concept(
    intercept=-9.1,
    amount=-1.2,
    home=0.9,
    newness=-0.9,
    device=1.2,
    velocity=0.75,
    night=-0.9,
    chargebacks=1.0,
    category=(1.4, 1.0, 1.2, 0.0, 0.8, -0.8, -1.2, -0.6, -1.0, -0.5),
    channel=(-0.8, 1.1, 0.6, -0.5),
    amount_online=-0.7,
    velocity_home=0.3,
    night_device=-0.6,
)
"""Card testing: small amounts by day, contactless, groceries and fuel, on established accounts."""

FRAUD_WAVE: Final = replace(USUAL, intercept=-6.3)
"""The usual fraudsters, several times as many of them: every risk has the same odds more."""
_CONCEPTS: Final[dict[str, Concept]] = {"concept": CHANGED, "label": FRAUD_WAVE}
