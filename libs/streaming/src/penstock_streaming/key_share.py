"""Which share of the keys a key belongs to: sticky, the same in every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

import numpy as np
import numpy.typing as npt

BUCKETS: Final = 10_000
"""Buckets per pipeline; a hundred of them are one percent of the keys."""
NO_KEY: Final = -1
_ODD: Final = np.uint64(2_654_435_769)
"""2^32 divided by the golden ratio: spreads what the checksum leaves close together."""
_MASK: Final = np.uint64(0xFFFF_FFFF)


def buckets(keys: Sequence[bytes | None], salt: str) -> npt.NDArray[np.int32]:
    """Return the bucket of each key in [0, `BUCKETS`), or `NO_KEY` where there is none.

    Parameters
    ----------
    salt
        The pipeline, so that the canaries of two pipelines do not meet the same keys.

    References
    ----------
    Knuth, D.: The Art of Computer Programming, vol. 3, 6.4, multiplicative hashing.

    Examples
    --------
    >>> buckets([b"a", b"b", b"a", None], "fraud").tolist()
    [6421, 1598, 6421, -1]
    """
    start = crc32(salt.encode())
    sums = np.fromiter(
        (0 if key is None else crc32(key, start) for key in keys), np.uint64, len(keys)
    )
    spread = (sums * _ODD) & _MASK
    found = ((spread * np.uint64(BUCKETS)) >> np.uint64(32)).astype(np.int32)
    if None in keys:
        found[[key is None for key in keys]] = NO_KEY
    return found
