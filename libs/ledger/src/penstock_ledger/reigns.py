"""Which version of a model might answer when: the routing states as spans of time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from penstock_schemas.records import ModelVersion, RoutingState

EVER: Final = 2**62
"""Milliseconds since the epoch: later than any record."""
ANY_VARIANT: Final = None


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart things may be that happen at the same time.

    Parameters
    ----------
    clock_s
        Between the clocks of a router and of whoever writes routing states, seconds.
    apply_s
        Time until every router has applied a revision and answered what it had in flight, seconds.
    """

    clock_s: float = 2.0
    apply_s: float = 30.0

    @property
    def clock_ms(self) -> int:
        """`clock_s` in milliseconds."""
        return round(self.clock_s * 1000)

    @property
    def apply_ms(self) -> int:
        """`apply_s` in milliseconds, with the clocks' difference."""
        return round(self.apply_s * 1000) + self.clock_ms


class Reign(NamedTuple):
    """A span of time in which a version may answer as a variant.

    Parameters
    ----------
    variant
        champion or canary; None for a version that drains: as whatever it was.
    since_ms, until_ms
        Milliseconds since the epoch, both inclusive, with the tolerance.
    """

    model: str
    version: str
    variant: str | None
    first_revision: int
    since_ms: int
    until_ms: int


def variant_of(version: ModelVersion) -> str | None:
    """Return the variant that a version answers as; empty if it may not answer."""
    if version.weight > 0:  # who serves beside the champion is labelled as a canary is
        return "champion" if version.alias == "champion" else "canary"
    return ANY_VARIANT if version.state == "draining" else ""


def reigns(states: Sequence[RoutingState], tolerance: Tolerance) -> Iterator[Reign]:
    """Yield each reign, those of consecutive revisions as one.

    Parameters
    ----------
    states
        In the order of the log.
    """
    open_since: dict[tuple[str, str, str | None], Reign] = {}
    ends = [*(state.updated_at for state in states[1:]), EVER - tolerance.apply_ms]
    for state, end in zip(states, ends, strict=False):
        now: dict[tuple[str, str, str | None], Reign] = {}
        for version in state.versions:
            variant = variant_of(version)
            if variant == "":
                continue
            key = (version.model_name, version.version, variant)
            before = open_since.pop(key, None)
            since = state.updated_at - tolerance.clock_ms if before is None else before.since_ms
            first = state.revision if before is None else before.first_revision
            now[key] = Reign(*key, first, since, end + tolerance.apply_ms)
        yield from open_since.values()
        open_since = now
    yield from open_since.values()


def judged(states: Sequence[RoutingState], tolerance: Tolerance) -> list[tuple[int, int]]:
    """Return the spans of time in which every revision in force is known.

    The topic is compacted: old revisions vanish, and what was predicted under them is not judged.
    """
    spans: list[tuple[int, int]] = []
    since: int | None = None
    previous: RoutingState | None = None
    for state in states:
        is_next = previous is not None and state.revision == previous.revision + 1
        if previous is not None and since is not None and not is_next:
            spans.append((since, previous.updated_at - tolerance.clock_ms))
        if previous is None or not is_next:
            is_whole = previous is None and state.revision == 1
            since = 0 if is_whole else state.updated_at + tolerance.apply_ms
        previous = state
    if since is not None:
        spans.append((since, EVER))
    return [(a, b) for a, b in spans if a < b]


def rows_of(offset: int, state: RoutingState) -> list[tuple[object, ...]]:
    """Return a state as rows of the table `routing`."""
    return [
        (
            offset,
            state.revision,
            state.updated_at,
            v.model_name,
            v.version,
            v.alias,
            v.weight,
            v.digest,
            v.state,
        )
        for v in state.versions
    ]
