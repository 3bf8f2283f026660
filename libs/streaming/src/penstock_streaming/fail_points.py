"""Named places where a test can have the process killed.

``PENSTOCK_FAIL_POINT=before_offsets:3`` kills the process by SIGKILL the third time the loop comes
to that place. Unset, a place is an empty call per batch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from penstock_schemas.errors import ConfigError

VARIABLE: Final = "PENSTOCK_FAIL_POINT"
FAIL_POINTS: Final = (
    "after_poll",
    "after_submit",
    "after_result",
    "mid_produce",
    "before_offsets",
    "after_flush",
    "after_offsets",
    "during_commit",
    "after_commit",
)
DURING_DELAY_S: Final = 0.0005
"""How long a call runs before ``during`` kills: less than a commit takes."""


class FailPoints:
    """The places; at most one of them is armed.

    Parameters
    ----------
    armed
        Its name, or None.
    count
        The visit at which to kill, from 1.
    """

    def __init__(self, armed: str | None = None, count: int = 1) -> None:
        self.armed = armed
        self._left = count

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, places: Sequence[str] = FAIL_POINTS
    ) -> FailPoints:
        """Read the variable.

        Parameters
        ----------
        places
            The names that there are, where they are not the loop's.

        Raises
        ------
        ConfigError
            If it names no place.
        """
        text = (os.environ if environment is None else environment).get(VARIABLE, "")
        if not text:
            return cls()
        name, _, count = text.partition(":")
        if name not in places or not (count or "1").isdigit():
            known = ", ".join(places)
            raise ConfigError(f"{VARIABLE} is {text!r}: give one of {known}, with :n for the visit")
        return cls(name, int(count or "1"))

    def reach(self, name: str) -> None:
        """Pass a place, or die there."""
        if name == self.armed and self._due():
            _kill()

    def during(self, name: str) -> None:
        """Pass a place where the next call dies while it runs."""
        if name == self.armed and self._due():
            timer = threading.Timer(DURING_DELAY_S, _kill)
            timer.daemon = True
            timer.start()

    def _due(self) -> bool:
        self._left -= 1
        return self._left == 0


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
