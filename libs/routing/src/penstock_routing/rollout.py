"""Moves of a rollout: promote, roll back, canary, shadow, end. Pure.

Each takes the state in force and returns the versions of the next revision, or the same tuple
where nothing is left to do. The command line and the training job make the same moves; who may
make one, and when, is checked by them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from penstock_schemas.errors import Refused
from penstock_schemas.records import ModelVersion, RoutingState

from penstock_routing.states import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    forgotten,
    retired,
    succeeded,
)

Versions = tuple[ModelVersion, ...]
LEAST_CHAMPION: Final = 1
"""Percent of the keys that a champion keeps: with less it would be none."""


def promoted(now: RoutingState, candidate: ModelVersion) -> Versions:
    """Make a version the champion; the old one drains and stays the way back.

    What other versions answer for stays theirs.

    Raises
    ------
    Refused
        There is no champion yet.
    """
    champion = _champion(now)
    if champion.version == candidate.version:
        return now.versions
    others = [forgotten(v) for v in _others(now, champion, candidate)]
    share = 100 - sum(v.weight for v in others)
    mine = replace(candidate, alias=CHAMPION, weight=share, state="serving")
    return (mine, succeeded(champion), *others)


def rolled_back(now: RoutingState) -> Versions:
    """Give every key to the champion before the present one; canaries end, shadows go on.

    The present champion does not become the way back: rolling back twice does not bring back what
    was rolled back.

    Raises
    ------
    Refused
        No previous champion is known.
    """
    champion = _champion(now)
    before = previous(now)
    others = [
        v if v.state == "shadow" or not v.weight else retired(v)
        for v in _others(now, champion, before)
    ]
    old = replace(champion, alias="", weight=0, state="draining")
    return (replace(before, alias=CHAMPION, weight=100, state="serving"), old, *others)


def previous(now: RoutingState) -> ModelVersion:
    """Return the champion before the present one.

    Raises
    ------
    Refused
        It is not known.
    """
    before = next((v for v in now.versions if v.alias == PREVIOUS), None)
    if before is None:
        raise Refused(
            f"no previous champion of {now.pipeline} is known since {now.updated_by} wrote "
            f"revision {now.revision}; 'penstock model promote {now.pipeline} VERSION' names one"
        )
    return before


def with_canary(now: RoutingState, candidate: ModelVersion, percent: int) -> Versions:
    """Give a version that share of the keys, from the champion's; 0 ends it.

    Parameters
    ----------
    percent
        0 to 99.

    Raises
    ------
    Refused
        It is the champion, is no canary that could end, or nothing is left for the champion.
    """
    champion = _champion(now)
    _refuse_champion(champion, candidate, "a canary")
    if percent == 0 and candidate.state != "canary":
        raise Refused(f"version {candidate.version} is no canary")
    share = replace(candidate, alias=_alias(candidate), weight=percent, state="canary")
    return _shared(now, champion, share if percent else retired(share))


def with_shadow(now: RoutingState, candidate: ModelVersion, *, on: bool) -> Versions:
    """Show a version the rows without letting it answer, or no more.

    A canary's keys go back to the champion.

    Raises
    ------
    Refused
        It is the champion, or is no shadow that could end.
    """
    champion = _champion(now)
    _refuse_champion(champion, candidate, "a shadow")
    if not on and candidate.state != "shadow":
        raise Refused(f"version {candidate.version} is no shadow")
    shown = replace(candidate, alias=_alias(candidate), weight=0, state="shadow")
    return _shared(now, champion, shown if on else retired(shown))


def with_share(
    champion: ModelVersion, mine: ModelVersion, others: Iterable[ModelVersion]
) -> Versions:
    """Return the champion with the keys that one version and the others leave it, then these.

    Raises
    ------
    Refused
        Nothing is left for the champion.
    """
    others = tuple(others)
    left = 100 - mine.weight - sum(v.weight for v in others)
    if left < LEAST_CHAMPION:
        taken = ", ".join(f"{v.version} {v.weight} %" for v in others if v.weight)
        raise Refused(
            f"{mine.weight} % for version {mine.version} leave the champion {left} %; "
            f"others have: {taken or 'nothing'}; 'penstock model promote' gives a version all"
        )
    return (replace(champion, weight=left), mine, *others)


def _shared(now: RoutingState, champion: ModelVersion, mine: ModelVersion) -> Versions:
    """Return the versions with one changed, the same tuple where it was so already."""
    found = with_share(champion, mine, _others(now, champion, mine))
    return now.versions if set(found) == set(now.versions) else found


def _alias(candidate: ModelVersion) -> str:
    """Return the alias of a version on trial; the way back keeps its name."""
    return PREVIOUS if candidate.alias == PREVIOUS else CHALLENGER


def _champion(now: RoutingState) -> ModelVersion:
    if now.champion is None:
        raise Refused(f"{now.pipeline} has no champion; 'penstock up' gives it its first model")
    return now.champion


def _refuse_champion(champion: ModelVersion, candidate: ModelVersion, what: str) -> None:
    if champion.version == candidate.version:
        raise Refused(f"version {candidate.version} is the champion and cannot be {what}")


def _others(now: RoutingState, *known: ModelVersion) -> list[ModelVersion]:
    numbers = {v.version for v in known}
    return [v for v in now.versions if v.version not in numbers]
