"""Circuit breakers, one per model on the server. No I/O, no sleeping.

Closed: calls go through. Open: none does, until the pause is over. Half-open: one call, the probe,
goes through, and its outcome closes the circuit or opens it for twice as long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from penstock_schemas.errors import ModelUnavailable, PenstockError
from penstock_streaming.timing import Outage

from penstock_inference.model_server import DeadlineHit

logger = logging.getLogger(__name__)

BreakerState = Literal["closed", "open", "half_open"]
STATES: Final[tuple[BreakerState, ...]] = ("closed", "open", "half_open")
PROBE_LIMIT_S: Final = 6.0
"""Time after which a probe that nobody has reported on is given up, seconds."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a circuit opens and for how long.

    Parameters
    ----------
    failures
        Failed calls in a row that open it. One deadline hit does so too: it has cost time enough.
    first_pause_s, longest_pause_s
        The pause doubles from the first to the longest, seconds.
    """

    failures: int
    first_pause_s: float
    longest_pause_s: float


ANSWERING: Final = BreakerPolicy(failures=3, first_pause_s=0.5, longest_pause_s=5.0)
"""Of a model that must answer: nobody else does."""
BESIDE: Final = BreakerPolicy(failures=1, first_pause_s=1.0, longest_pause_s=30.0)
"""Of a canary or a shadow: each try costs the records beside it time."""


class _Breaker:
    """The circuit of one model; guarded by the lock of `CircuitBreakers`."""

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self.state: BreakerState = "closed"
        self.failures = 0
        self.outage = Outage(policy.longest_pause_s, clock)
        self._policy = policy
        self._clock = clock
        self._probe_until = 0.0

    def claim(self) -> bool:
        """Return whether a call may be sent; takes the probe if one is due."""
        if self.state == "closed":
            return True
        is_lost = self.state == "half_open" and self._clock() >= self._probe_until
        if is_lost or (self.state == "open" and self.outage.remaining_s <= 0.0):
            self.state = "half_open"
            self._probe_until = self._clock() + PROBE_LIMIT_S
            return True
        return False

    def answered(self) -> None:
        if self.state == "open":
            return  # sent before it opened: of that only the probe tells
        if self.state == "closed":
            # A probe that goes through is not yet traffic that does: only now the pauses start
            # over.
            self.outage.end()
        self.state = "closed"
        self.failures = 0

    def failed(self, error: PenstockError) -> float:
        """Count a failed call; return the pause if that has opened the circuit, else 0."""
        if self.state == "open":
            return 0.0  # of several calls in flight one has said it
        self.failures += 1
        is_over = isinstance(error, DeadlineHit) or self.failures >= self._policy.failures
        if self.state == "closed" and not is_over:
            return 0.0
        self.state = "open"
        pause = ModelUnavailable(str(error), retry_after_s=self._policy.first_pause_s)
        return self.outage.begin(pause)


class CircuitBreakers:
    """The circuits of one pipeline's models, by name on the server. Thread-safe.

    Parameters
    ----------
    clock
        Monotonic seconds.
    on_change
        Is told a model's name and its circuit's new state, in the thread that changed it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[str, BreakerState], object] = lambda name, state: None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._lock = threading.Lock()
        self._breakers: dict[str, _Breaker] = {}

    def state(self, name: str) -> BreakerState:
        """Return the state of a circuit; closed where nothing has failed yet."""
        breaker = self._breakers.get(name)
        return "closed" if breaker is None else breaker.state

    def is_closed(self, name: str) -> bool:
        """Return whether calls go through; takes no probe."""
        return self.state(name) == "closed"

    def retry_after_s(self, name: str) -> float:
        """Return the seconds until the next probe; 0 where the circuit is not open."""
        breaker = self._breakers.get(name)
        return breaker.outage.remaining_s if breaker and breaker.state == "open" else 0.0

    def allow_call(self, name: str) -> bool:
        """Return whether a call may be sent now; a caller that gets a probe reports its outcome."""
        breaker = self._breakers.get(name)
        if breaker is None or breaker.state == "closed":
            return True
        with self._lock:
            before, may = breaker.state, breaker.claim()
        self._tell(name, before, breaker.state)
        return may

    def record_success(self, name: str) -> None:
        """Count an answered call: a probe's closes the circuit."""
        breaker = self._breakers.get(name)
        if breaker is None:
            return
        with self._lock:
            before = breaker.state
            breaker.answered()
        self._tell(name, before, breaker.state)
        if breaker.state != before:
            logger.info("%s answers again", name)

    def record_failure(
        self, name: str, error: PenstockError, policy: BreakerPolicy = ANSWERING
    ) -> None:
        """Count a call that has failed for a reason that lies with the model.

        Parameters
        ----------
        policy
            Of a circuit that is new.
        """
        with self._lock:
            breaker = self._breakers.setdefault(name, _Breaker(policy, self._clock))
            before, pause_s = breaker.state, breaker.failed(error)
        self._tell(name, before, breaker.state)
        if pause_s:
            logger.warning("no calls to %s for %.1f s: %s", name, pause_s, error)

    def reset_breaker(self, name: str) -> None:
        """Close a circuit, whatever it knows."""
        with self._lock:
            self._breakers.pop(name, None)

    def _tell(self, name: str, before: BreakerState, after: BreakerState) -> None:
        if after != before:
            self._on_change(name, after)
