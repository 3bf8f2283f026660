"""From a routing state to the version that scores each record.

Pure. A version's share is a range of buckets, and a key's bucket never changes: the same key meets
the same version for as long as the weights stay, and raising a weight only adds keys to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from penstock_routing.states import BUCKETS, buckets
from penstock_schemas.records import ModelVersion, RoutingState

from penstock_inference.model_server import ServedModel

CHAMPION: Final = "champion"
CANARY: Final = "canary"
SHADOW: Final = "shadow"
BUCKETS_PER_PERCENT: Final = BUCKETS // 100

Which = npt.NDArray[np.int8]
"""Per row the index of its route in `RouteTable.routes`."""


@dataclass(frozen=True, slots=True)
class Route:
    """A version that takes traffic, and the model on the server that answers for it.

    Parameters
    ----------
    variant
        champion, canary or shadow.
    """

    version: ModelVersion
    model: ServedModel
    variant: str = CHAMPION


@dataclass(frozen=True, slots=True)
class Share:
    """The buckets of a canary, from ``first`` to before ``stop``."""

    route: Route
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class RouteTable:
    """Who answers for which keys: one revision, never changed.

    Parameters
    ----------
    pipeline
        Salt of the buckets.
    canaries
        Those that are loaded; all other buckets are the champion's.
    shadows
        Versions that are shown rows and answer nobody.
    """

    pipeline: str
    revision: int
    champion: Route
    canaries: tuple[Share, ...] = ()
    shadows: tuple[Route, ...] = ()

    @property
    def routes(self) -> tuple[Route, ...]:
        """The champion, then the canaries."""
        return (self.champion, *(share.route for share in self.canaries))

    @property
    def weights(self) -> tuple[float, ...]:
        """Share of the keys of each of `routes`, percent."""
        given = [(share.stop - share.first) / BUCKETS_PER_PERCENT for share in self.canaries]
        return (100.0 - sum(given), *given)

    def split(self, keys: Sequence[bytes | None]) -> Which:
        """Return the index in `routes` of each key's route; a record without key is index 0."""
        which = np.zeros(len(keys), dtype=np.int8)
        found = buckets(keys, self.pipeline)
        for index, share in enumerate(self.canaries, 1):
            which[(found >= share.first) & (found < share.stop)] = index
        return which

    def route_of(self, key: bytes | None) -> Route:
        """Return the route of one key."""
        return self.routes[int(self.split([key])[0])] if self.canaries else self.champion


def serving(state: RoutingState | None) -> ModelVersion | None:
    """Return the version that takes all traffic that no canary takes; None where there is none.

    Examples
    --------
    >>> serving(None) is None
    True
    """
    if state is None:
        return None
    candidates = [v for v in state.versions if v.alias == CHAMPION and v.weight > 0]
    return next((v for v in candidates if v.state == "serving"), None)


def canaries(state: RoutingState) -> list[ModelVersion]:
    """Return the versions that take a share of the keys beside the champion, in their order.

    A canary is on trial; a serving version without the champion's alias is the other arm of an A/B
    test. Both answer as variant canary: there is one champion, whose errors are watched.
    """
    return [
        v
        for v in state.versions
        if v.weight > 0 and (v.state == CANARY or (v.state == "serving" and v.alias != CHAMPION))
    ]


def shadows(state: RoutingState) -> list[ModelVersion]:
    """Return the versions that are shown rows and answer nobody; their weight means nothing."""
    return [v for v in state.versions if v.state == SHADOW]


def route_table(state: RoutingState, models: Mapping[str, ServedModel]) -> RouteTable | None:
    """Return who answers for which keys; None where no champion is loaded.

    A canary that is not loaded keeps its range, so that no key of another one moves; the champion
    answers in it.

    Parameters
    ----------
    models
        What is loaded, by the name on the model server.
    """
    champion = serving(state)
    if champion is None or champion.served_as not in models:
        return None
    shares: list[Share] = []
    first = 0
    for version in canaries(state):
        stop = min(BUCKETS, first + version.weight * BUCKETS_PER_PERCENT)
        model = models.get(version.served_as)
        if model is not None and stop > first:
            shares.append(Share(Route(version, model, CANARY), first, stop))
        first = stop
    route = Route(champion, models[champion.served_as])
    shown = tuple(
        Route(version, models[version.served_as], SHADOW)
        for version in shadows(state)
        if version.served_as in models
    )
    return RouteTable(state.pipeline, state.revision, route, tuple(shares), shown)


def variant_of(version: ModelVersion) -> str:
    """Return the variant of a version that is asked for by number."""
    return version.state if version.state in (CANARY, SHADOW) else CHAMPION


def named(state: RoutingState | None, version: str) -> ModelVersion | None:
    """Return a version of the state that may be asked for by number."""
    if state is None:
        return None
    return next((v for v in state.versions if v.version == version and v.state != "retired"), None)


def is_newer(state: RoutingState, known: RoutingState | None) -> bool:
    """Return whether a state replaces the known one: revisions only grow."""
    return known is None or state.revision > known.revision
