"""Which version is the champion, by the predictions in the log alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from penstock_monitoring.observations import Ints, Observations

SWITCH_ROWS: Final = 256
"""Champion's predictions in a row that come from another version before that one is watched:
around a promotion the partitions' predictions of both lie mixed in the log."""

Version = tuple[str, str]
"""Model name and version."""


class ChampionTracker:
    """Follows the champion through the log.

    After a long absence the partitions are read one after the other, each from its past: rows of
    events from before the present champion's first ones do not bring its predecessor back.
    """

    def __init__(self) -> None:
        self._current: Version | None = None
        self._rival: Version = ("", "")
        self._streak = 0
        self._streak_since = 0
        self._since: int | None = None

    def switches(self, batch: Observations, champion: Ints) -> Iterator[tuple[int, Version]]:
        """Yield the rows from which on another version is the champion.

        Parameters
        ----------
        champion
            Rows of the batch that a champion has predicted, ascending.
        """
        names = [(name, version) for name, version, _ in batch.names]
        codes = batch.who[champion]
        if all(names[code] == self._current for code in np.unique(codes)):
            self._streak = 0 if len(champion) else self._streak
            return
        times = batch.times[champion].tolist()
        for row, code, time in zip(champion.tolist(), codes.tolist(), times, strict=True):
            name = names[code]
            if self._current is None:
                self._current = name
                yield row, name
            elif name == self._current:
                self._streak = 0
            elif self._since is None or time > self._since:
                self._lengthen(name, time)
                if self._streak >= SWITCH_ROWS:
                    # Not the last one's time: a producer's clock may be wrong.
                    self._current, self._since, self._streak = name, self._streak_since, 0
                    yield row, name

    def _lengthen(self, name: Version, time: int) -> None:
        is_same = self._streak > 0 and name == self._rival
        self._streak = self._streak + 1 if is_same else 1
        self._streak_since = min(time, self._streak_since) if is_same else time
        self._rival = name

    def state(self) -> dict[str, Any]:
        """Return all of the state as plain values."""
        return {
            "current": self._current,
            "since": self._since,
            "rival": self._rival,
            "streak": self._streak,
            "streak_since": self._streak_since,
        }

    def restore(self, state: Mapping[str, Any]) -> Version | None:
        """Become what it was when `state` was called; return the champion."""
        current, rival = state["current"], state["rival"]
        self._current = current and (str(current[0]), str(current[1]))
        self._rival = (str(rival[0]), str(rival[1]))
        self._streak = int(state["streak"])
        self._streak_since = int(state["streak_since"])
        self._since = state["since"]
        return self._current
