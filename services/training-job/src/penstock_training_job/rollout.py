"""The routing states of a job's rollout: canary, promoted, rejected, and the loser retired. Pure.

Each function takes the state in force and returns the next one, or the same object where nothing
is left to do. The moves are those of `penstock_routing.rollout`; what is added here is that a job
makes none of them on a state that somebody else has changed since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from penstock_routing.rollout import promoted, with_canary, with_share
from penstock_routing.states import (
    CHALLENGER,
    CHAMPION,
    JOB,
    PREVIOUS,
    find,
    following,
    job_of,
    retired,
    writer_of,
)
from penstock_schemas.errors import PenstockError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.deployment import routed
from penstock_training.tracking import RegisteredModel

from penstock_training_job.request import now_ms


class Overtaken(PenstockError):
    """Somebody else has changed the routing: the comparison no longer means anything."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One candidate on its way to take over from one champion.

    Parameters
    ----------
    request_id
        The request; named in each state as its writer.
    champion
        Version that the candidate is compared with.
    """

    request_id: str
    candidate: RegisteredModel
    champion: str

    def canary(self, now: RoutingState | None, percent: int) -> RoutingState:
        """Give the candidate its share of the keys.

        A canary left by an earlier job ends, and versions that were retired before are forgotten,
        but for the previous champion.

        Raises
        ------
        Overtaken
            If there is another champion, or a canary that is not of a job, or ours was ended.
        """
        state = self._checked(now)
        mine = find(state, self.candidate.version)
        if mine is not None and mine.state == "canary":
            return state
        if mine is not None:
            raise Overtaken(f"version {mine.version} was {mine.state} by {writer_of(state)}")
        others = [v for v in state.versions if v.alias != CHAMPION and not _is_over(v)]
        if any(v.weight for v in others) and not is_of_job(state):
            raise Overtaken(f"another canary runs, by {writer_of(state)}")
        left = [retired(v) if v.state in ("canary", "draining") else v for v in others]
        mine = self._entry(CHALLENGER, percent, "canary")
        return self._next(state, with_share(_serving(state), mine, left))

    def promoted(self, now: RoutingState | None) -> RoutingState:
        """Make the candidate the champion; the old one drains.

        Raises
        ------
        Overtaken
            If there is another champion, or the canary was ended.
        """
        if now is not None and now.champion and now.champion.version == self.candidate.version:
            return now
        state = self.running(now)
        return self._next(state, promoted(state, self._entry("", 0, "canary")))

    def running(self, now: RoutingState | None) -> RoutingState:
        """Return the state if the canary runs.

        Raises
        ------
        Overtaken
            If it does not.
        """
        state = self._checked(now)
        mine = find(state, self.candidate.version)
        if mine is None or mine.state != "canary":
            raise Overtaken(f"the canary was ended by {writer_of(state)}")
        return state

    def rejected(self, now: RoutingState | None) -> RoutingState:
        """Give all keys back to the champion, unless the canary is over already.

        Raises
        ------
        Overtaken
            If there is another champion.
        """
        state = self._checked(now)
        mine = find(state, self.candidate.version)
        if mine is None or mine.state != "canary":
            return state
        return self._next(state, with_canary(state, mine, 0))

    def _checked(self, now: RoutingState | None) -> RoutingState:
        champion = None if now is None else now.champion
        if now is None or champion is None:
            raise Overtaken("there is no champion any more")
        if champion.version != self.champion:
            raise Overtaken(
                f"the champion is version {champion.version} since revision {now.revision} by "
                f"{writer_of(now)}; the candidate was compared with {self.champion}"
            )
        return now

    def _entry(self, alias: str, weight: int, state: str) -> ModelVersion:
        return routed(self.candidate, alias, weight, state)

    def _next(self, now: RoutingState, versions: Iterable[ModelVersion]) -> RoutingState:
        return _following(now, versions, self.request_id)


def ended(now: RoutingState, request_id: str) -> RoutingState:
    """Return the state without the canaries of jobs, or the same where there are none."""
    if not is_of_job(now) or not any(v.state == "canary" for v in now.versions):
        return now
    versions = [
        retired(v) if v.state == "canary" else replace(v, weight=100 * (v.alias == CHAMPION))
        for v in now.versions
    ]
    return _following(now, versions, request_id)


def drained(now: RoutingState, request_id: str) -> RoutingState:
    """Return the state with what drains retired, or the same where nothing does."""
    if not is_of_job(now) or not any(v.state == "draining" for v in now.versions):
        return now
    versions = [retired(v) if v.state == "draining" else v for v in now.versions]
    return _following(now, versions, request_id)


def is_of_job(state: RoutingState) -> bool:
    """Return whether a training job wrote the state."""
    return job_of(state) is not None


def _following(
    now: RoutingState, versions: Iterable[ModelVersion], request_id: str
) -> RoutingState:
    return following(now, versions, f"{JOB}/{request_id}", now_ms())


def _serving(state: RoutingState) -> ModelVersion:
    return next(v for v in state.versions if v.alias == CHAMPION)


def _is_over(version: ModelVersion) -> bool:
    """Return whether the version can be dropped from the routing state."""
    return version.state == "retired" and version.alias != PREVIOUS
