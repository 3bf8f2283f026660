"""Named places in a job's work where a test may end the process; nothing happens here."""

from __future__ import annotations


class FailPoints:
    """Does nothing; a test puts methods of its own in the place of these."""

    def reach(self, name: str) -> None:
        """Pass a place."""

    def during(self, name: str) -> None:
        """Pass a place before a call in the middle of which a test may end the process."""
