"""A routing state: the steps from one to the next, and which of the keys a share of it means. Pure.

Keys are shared out by a hash, so that a key stays with its version, the same in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final
from zlib import crc32

import numpy as np
import numpy.typing as npt
from penstock_schemas.records import ModelVersion, RoutingState

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
PREVIOUS: Final = "previous"
"""Alias of the champion before the present one: the way back needs no other source."""
JOB: Final = "retrain-job"
"""Name under which training jobs write; their request follows a slash."""


def following(
    now: RoutingState, versions: Iterable[ModelVersion], writer: str, at_ms: int
) -> RoutingState:
    """Return the next revision.

    Parameters
    ----------
    at_ms
        The time now, milliseconds since the epoch, UTC.
    """
    return RoutingState(
        pipeline=now.pipeline,
        revision=now.revision + 1,
        updated_at=at_ms,
        updated_by=writer,
        versions=tuple(versions),
    )


def retired(version: ModelVersion) -> ModelVersion:
    """Return a version that serves no more; only the way back keeps its name."""
    alias = PREVIOUS if version.alias == PREVIOUS else ""
    return replace(version, alias=alias, weight=0, state="retired")


def succeeded(champion: ModelVersion) -> ModelVersion:
    """Return a champion that another one follows: what it has in flight is still answered."""
    return replace(champion, alias=PREVIOUS, weight=0, state="draining")


def forgotten(version: ModelVersion) -> ModelVersion:
    """Return the version as it is when another one becomes the previous champion."""
    return retired(replace(version, alias="")) if version.alias == PREVIOUS else version


def find(state: RoutingState, version: str) -> ModelVersion | None:
    """Return a version of the state by its number; None where it is not there."""
    return next((v for v in state.versions if v.version == version), None)


def writer_of(state: RoutingState) -> str:
    """Return who wrote the state, and which revision that is, for people."""
    return f"{state.updated_by} (revision {state.revision})"


def job_of(state: RoutingState) -> str | None:
    """Return the request whose training job wrote the state; None where no job did.

    Examples
    --------
    >>> job_of(RoutingState("fraud", 3, 0, "retrain-job/r1", ()))
    'r1'
    """
    name, slash, request_id = state.updated_by.partition("/")
    return request_id if name == JOB and slash else None


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
