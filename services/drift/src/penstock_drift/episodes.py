"""Episodes: what belongs to one change, so that it is reported and acted upon once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

_DIGITS: Final = 24


def made_id(prefix: str, *parts: object) -> str:
    """Return an id that the same facts always give; letters, digits and hyphens only.

    Examples
    --------
    >>> made_id("drift", "fraud", "3", 17)
    'drift-d6d7485db988df81230c8d2f'
    """
    digest = sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
    return f"{prefix}-{digest[:_DIGITS]}"


@dataclass(slots=True)
class Episode:
    """One change, from its first suspicion on.

    Parameters
    ----------
    episode_id
        Shared by its events; empty while there is no episode.
    is_open
        Whether it is confirmed, and a retraining was asked for.
    labels
        Joined labels of the champion since it was opened, of events after the change.
    since
        Event time of the change, milliseconds.
    """

    episode_id: str = ""
    is_open: bool = False
    labels: int = 0
    since: int = 0

    def join(self, *facts: object) -> str:
        """Return the id of the episode, begun with these facts if there is none."""
        if not self.episode_id:
            self.episode_id = made_id("episode", *facts)
        return self.episode_id

    def open(self, since: int) -> bool:
        """Learn that a change is confirmed; return whether that opens the episode."""
        if self.is_open:
            return False
        self.is_open, self.labels, self.since = True, 0, since
        return True

    def count(self, time: int) -> None:
        """Learn of a joined label of an event at ``time``, milliseconds."""
        self.labels += self.is_open and time >= self.since

    def close(self) -> None:
        """End it."""
        self.episode_id, self.is_open, self.labels, self.since = "", False, 0, 0
