"""A canary that fails is left alone for a while: each try costs the records behind it time."""

from __future__ import annotations

from typing import Final

from penstock_schemas.errors import PenstockError

from penstock_inference.breakers import BESIDE, Breakers
from penstock_inference.routing import Route

CANARY_TIMEOUT_S: Final = 2.0
"""Longest deadline of a call to a canary, seconds: the champion's rows wait for it too."""


class CanaryPauses:
    """Which canaries are not asked just now; the champion has their keys.

    Parameters
    ----------
    breakers
        The circuits of the pipeline's models; its own if not given.
    """

    def __init__(self, breakers: Breakers | None = None) -> None:
        self._breakers = Breakers() if breakers is None else breakers

    def is_paused(self, canary: Route) -> bool:
        """Tell whether a canary is not to be asked now; if not, its outcome must be reported."""
        return not self._breakers.allows(canary.model.name)

    def failed(self, canary: Route, why: PenstockError) -> None:
        """Leave a canary alone, twice as long as the last time."""
        self._breakers.failed(canary.model.name, why, BESIDE)

    def answered(self, canary: Route) -> None:
        """Learn that a canary has answered."""
        self._breakers.answered(canary.model.name)
