"""What a generator of simulated events is, and the ones there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from penstock_schemas.errors import ConfigError

DriftKind = Literal["none", "covariate", "concept", "label"]


@dataclass(frozen=True, slots=True)
class Drift:
    """A change planted into the events.

    Parameters
    ----------
    kind
        covariate: the inputs move, what they mean stays. concept: the same inputs mean another
        risk, their distribution stays. label: so does the order of the risks, but the positives
        become several times as many.
    at_event
        First event after the change, counted from the generator's first one.
    """

    kind: DriftKind
    at_event: int


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """Events in time order, with the truth about them.

    Parameters
    ----------
    columns
        The events, columns as in the pipeline's ``event.avsc``; the time is timestamp[ms].
    event_ids
        Id per event.
    keys
        Entity key per event.
    times_ms
        Event time, shape (n,), int64, ascending.
    labels
        Ground truth, shape (n,), float64.
    label_lag
        When the label is known, as a multiple of the mean delay, shape (n,), float64.
    oracle
        True probability of the label 1 given what can be seen, shape (n,), float64.
    """

    columns: pa.RecordBatch
    event_ids: list[str]
    keys: list[str]
    times_ms: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float64]
    label_lag: npt.NDArray[np.float64]
    oracle: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.event_ids)

    @property
    def end_ms(self) -> int:
        """Time of the last event: where the next batch starts."""
        return int(self.times_ms[-1])

    def label_times_ms(self, mean_delay_s: float) -> npt.NDArray[np.int64]:
        """Return when each label becomes known, shape (n,), int64 milliseconds."""
        return self.times_ms + (self.label_lag * mean_delay_s * 1000).astype(np.int64)


class EventGenerator(Protocol):
    """A seeded source of events that remembers its entities' histories from call to call."""

    events_per_s: float
    """Natural density of the events in simulated time, per second."""

    def profiles(self) -> pd.DataFrame:
        """Return what is known of each entity: the join key and one column per feature."""

    def start_before(self, end_ms: int, n: int, rate: float) -> int:
        """Return a ``start_ms`` from which ``n`` events end shortly before ``end_ms``."""

    def generate(
        self, n: int, start_ms: int, rate: float, drift: Drift | None = None
    ) -> SimulatedBatch:
        """Draw the next ``n`` events.

        Parameters
        ----------
        start_ms
            Simulated time before the first of them.
        rate
            Mean density in simulated time, events per second.
        """


_GENERATORS: Final = {
    "card_transactions": ("penstock_simulator.card_transactions", "CardTransactions")
}


def make_generator(name: str, seed: int) -> EventGenerator:
    """Return a new generator by its name.

    Raises
    ------
    ConfigError
        If there is no such generator.
    """
    if name not in _GENERATORS:
        known = ", ".join(sorted(_GENERATORS))
        raise ConfigError(f"simulator: expected one of {known}, got {name!r}")
    module, attribute = _GENERATORS[name]
    factory: Callable[[int], EventGenerator] = getattr(import_module(module), attribute)
    return factory(seed)
