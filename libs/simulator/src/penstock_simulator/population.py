"""The accounts of the simulated bank: fixed, whatever the seed of their transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

COUNTRIES: Final = ("DE", "FR", "NL", "PL", "ES", "IT", "GB", "US")
_COUNTRY_SHARES: Final = (0.40, 0.14, 0.10, 0.10, 0.09, 0.08, 0.06, 0.03)
_POPULATION_SEED: Final = 20_011

Floats = npt.NDArray[np.float64]


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
