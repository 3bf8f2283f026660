"""How often Python looks for reference cycles in a process that runs a loop."""

from __future__ import annotations

import gc
from typing import Final

THRESHOLDS: Final = (100_000, 20, 100)
"""Allocations before a young collection, and young ones before an older generation's."""


def collect_seldom() -> None:
    """Look for cycles seldom, and never among what exists by now.

    The client's messages are tracked by the collector, so that by Python's own thresholds every
    batch starts several collections, which find nothing: a fifth of the loop's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
