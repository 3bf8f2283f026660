"""From a routing state to the version that scores a batch.

Pure. Today the champion takes every key; shares by weight come with canaries, which is why the
choice is made over the list of versions and returned as a list.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock_schemas.records import ModelVersion, RoutingState

from penstock_inference.triton import ServedModel


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
    variant: str = "champion"


def serving(state: RoutingState | None) -> ModelVersion | None:
    """Return the version that takes traffic, or None where there is none.

    Examples
    --------
    >>> serving(None) is None
    True
    """
    if state is None:
        return None
    candidates = [v for v in state.versions if v.alias == "champion" and v.weight > 0]
    return next((v for v in candidates if v.state == "serving"), None)


def named(state: RoutingState | None, version: str) -> ModelVersion | None:
    """Return a version of the state that may be asked for by number."""
    if state is None:
        return None
    return next((v for v in state.versions if v.version == version and v.state != "retired"), None)


def is_newer(state: RoutingState, known: RoutingState | None) -> bool:
    """Tell whether a state replaces the known one: revisions only grow."""
    return known is None or state.revision > known.revision
