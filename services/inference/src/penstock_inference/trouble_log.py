"""Says what is wrong when it begins, changes or ends, not every second."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class TroubleLog:
    """What was said last, by subject. Not thread-safe."""

    def __init__(self) -> None:
        self._troubles: dict[str, str] = {}

    def say(self, what: str, trouble: str) -> None:
        """Log a trouble, or with an empty one its end, if that is new."""
        if trouble == self._troubles.get(what, ""):
            return
        if trouble:
            self._troubles[what] = trouble
            logger.warning("%s: %s", what, trouble)
        else:
            del self._troubles[what]
            logger.info("%s: no trouble any more", what)
