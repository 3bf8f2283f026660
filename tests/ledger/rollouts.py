"""Routing states of whole rollouts, as a router would obey them."""

from __future__ import annotations

import random
from typing import Literal, get_args
from zlib import crc32

from penstock_schemas.records import ModelVersion, RoutingState

Story = Literal["steady", "promoted", "rejected", "rolled back", "a/b"]
STORIES: tuple[Story, ...] = get_args(Story)
STEP_MS = 45_000
SLOWEST_APPLY_MS = 20_000
Entry = tuple[str, str, int, str]
"""version, alias, weight, state"""

PROMOTED: list[list[Entry]] = [
    [("1", "champion", 100, "serving")],
    [("1", "champion", 90, "serving"), ("2", "challenger", 10, "canary")],
    [("1", "champion", 50, "serving"), ("2", "challenger", 50, "canary")],
    [("2", "champion", 100, "serving"), ("1", "", 0, "draining")],
    [("2", "champion", 100, "serving"), ("1", "", 0, "retired")],
]
HISTORIES: dict[Story, list[list[Entry]]] = {
    "steady": PROMOTED[:1],
    "promoted": PROMOTED,
    "rejected": [
        *PROMOTED[:2],
        [("1", "champion", 100, "serving"), ("2", "", 0, "retired")],
    ],
    "rolled back": [
        *PROMOTED[:4],
        [("1", "champion", 100, "serving"), ("2", "previous", 0, "draining")],
    ],
    "a/b": [
        *PROMOTED[:1],
        [("1", "champion", 60, "serving"), ("2", "b", 40, "serving"), ("3", "", 0, "shadow")],
        [("1", "champion", 100, "serving"), ("2", "", 0, "retired")],
    ],
}


def digest_of(version: str) -> str:
    return f"sha256:{crc32(version.encode()):064x}"


def rollout(story: Story, start_ms: int) -> list[RoutingState]:
    """Return the revisions of a story, one every `STEP_MS`."""
    return [
        RoutingState(
            "fraud",
            number,
            start_ms + (number - 1) * STEP_MS,
            "retrain-job/r1",
            tuple(
                ModelVersion(
                    model_name="fraud",
                    version=version,
                    served_as=f"fraud_{version}",
                    alias=alias,
                    weight=weight,
                    digest=digest_of(version),
                    run_id=f"run-{version}",
                    state=state,
                )
                for version, alias, weight, state in entries
            ),
        )
        for number, entries in enumerate(HISTORIES[story], 1)
    ]


def compacted(states: list[RoutingState], rng: random.Random) -> list[tuple[int, RoutingState]]:
    """Return what compaction may leave, with offsets: always the last state."""
    kept = list(enumerate(states))
    while len(kept) > 1 and rng.random() < 0.3:
        del kept[rng.randrange(len(kept) - 1)]
    return kept


def answering(state: RoutingState, key: bytes | None) -> tuple[str, str]:
    """Return the (version, variant) that a router answers a key with."""
    champion = state.champion
    assert champion is not None
    canary = next((v for v in state.versions if v.weight > 0 and v != champion), None)
    if canary is not None and key is not None and crc32(key) % 100 < canary.weight:
        return canary.version, "canary"
    return champion.version, "champion"
