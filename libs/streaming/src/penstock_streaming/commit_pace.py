"""When a transaction is due: commits keep their distance, records do not wait for company. Pure."""

from __future__ import annotations

from typing import Final

REST_SHARE: Final = 0.5
"""Share of the interval that lies between two commits at least, however long a commit takes."""


class CommitPace:
    """Commits come an interval apart; what arrives after a longer rest is committed at once.

    Counted from commit to commit, not from the first record of a transaction: that one would wait
    for the whole interval though nothing comes with it.

    Parameters
    ----------
    now_s
        Monotonic seconds.

    Examples
    --------
    >>> pace = CommitPace(0.0)
    >>> pace.due_at(0.1)
    0.1
    >>> pace.committed(5.0, 5.01)
    >>> round(pace.due_at(0.1), 2)
    5.1
    >>> pace.committed(6.0, 6.5)
    >>> round(pace.due_at(0.1), 2)
    6.55
    """

    def __init__(self, now_s: float) -> None:
        self._began = self._ended = now_s

    def committed(self, began_s: float, ended_s: float) -> None:
        """Learn when a commit began and ended."""
        self._began, self._ended = began_s, ended_s

    def due_at(self, interval_s: float) -> float:
        """Return the earliest time of the next commit."""
        return max(self._began + interval_s, self._ended + interval_s * REST_SHARE)
