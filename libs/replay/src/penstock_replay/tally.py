"""Dead letters counted by what becomes of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from penstock_replay.dead_letters import Found


@dataclass(slots=True)
class Tally:
    """What became of letters, or would become of them.

    Parameters
    ----------
    rows
        By dead-letter topic, class and fate.
    reasons
        Of the refusals.
    """

    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found, fate: str, reason: str = "") -> None:
        """Count a letter."""
        self.rows[found.letter.place.topic, found.letter.dead_letter_class, fate] += 1
        if reason:
            self.reasons[reason] += 1

    @property
    def counts(self) -> Counter[str]:
        """Letters by fate."""
        total: Counter[str] = Counter()
        for (_, _, fate), letters in self.rows.items():
            total[fate] += letters
        return total
