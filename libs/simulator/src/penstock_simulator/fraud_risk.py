"""The truth about fraud: the probability of a fraud given what can be seen, by concept.

No quantity decides alone: the log-odds add up ten weak ones and their interactions, each of which
the pipeline's features can see or follow closely. Inputs do not depend on the label, so planting
another concept leaves their distribution as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

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

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
