"""Going on after a failure that passes: a run starts again from its last commit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from penstock_schemas.errors import BrokerUnavailable, FatalError
from penstock_streaming.errors import AbortRequired, OutcomeUnknown

RETRIED: Final = (AbortRequired, OutcomeUnknown, BrokerUnavailable)
"""Failures after which a run goes on from its last commit, with a new producer."""
ATTEMPTS: Final = 5
"""Failures in a row, without a commit between, after which a run gives up."""


PAUSE_S: Final = 4.0
"""Wait before going on: who has taken the id over needs a moment to say so in the audit."""


def until_done(
    attempt: Callable[[], None], commits: Callable[[], int], pause_s: float = PAUSE_S
) -> None:
    """Repeat ``attempt``, which starts from what the audit says, until it succeeds.

    Parameters
    ----------
    commits
        How many transactions have been committed: one more forgives earlier failures.

    Raises
    ------
    BrokerUnavailable
        If it fails too often in a row.
    """
    failures, before = 0, commits()
    while True:
        try:
            return attempt()
        except FatalError:
            raise
        except RETRIED as exc:
            failures = 1 if commits() > before else failures + 1
            before = commits()
            if failures >= ATTEMPTS:
                raise BrokerUnavailable(
                    f"{exc}; the same command goes on where this one stopped"
                ) from exc
            threading.Event().wait(pause_s)
