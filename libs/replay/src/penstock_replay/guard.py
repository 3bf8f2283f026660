"""What becomes of a dead letter that is to be replayed: pure, and never a loop."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from penstock_replay.letters import Letter
from penstock_replay.places import Place
from penstock_replay.selection import Span

MAX_ATTEMPTS: Final = 3
"""A record that has failed more often is parked, not tried again."""


class Fate(Enum):
    """What becomes of it; the value is its name in counts."""

    REPLAY = "replayed"
    PARK = "parked"
    REFUSE = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's decision.

    Parameters
    ----------
    attempts
        How often the record has failed in all, over every replay.
    reason
        Of a refusal, for people.
    """

    fate: Fate
    attempts: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Origins:
    """What is known of the topics that dead letters go back to.

    Parameters
    ----------
    writable
        The topics of producer applications: the only ones that copies are appended to.
    spans
        By topic and partition, the offsets that are in the log.
    attempts
        Attempts that the origins' own headers tell, for letters that hold something else than the
        origin's bytes; an origin that could not be read is missing.
    """

    writable: Collection[str]
    spans: Mapping[tuple[str, int], Span]
    attempts: Mapping[Place, int]


def judge(letter: Letter, origins: Origins, *, once_more: bool = False) -> Verdict:
    """Decide about a letter.

    A letter of ingest carries its event's attempts. What a service writes carries no headers, so
    for a letter of a later hop the attempts are in its origin, which a replay has put there.

    Parameters
    ----------
    once_more
        It was parked and somebody has asked for it: it is tried however often it has failed.
    """
    origin = letter.origin
    if origin is None:
        return _refuse(letter, "it has no readable dlq.origin")
    if origin.topic not in origins.writable:
        return _refuse(letter, f"{origin.topic} is written by services: replay the event instead")
    span = origins.spans.get((origin.topic, origin.partition), Span(0, 0))
    if origin.offset < span.first:
        return _refuse(letter, "retention has passed its origin")
    if origin.offset >= span.end:
        return _refuse(letter, "its origin is not in the log: was the topic created anew?")
    attempts = letter.attempts
    if letter.is_the_event:
        if not letter.has_value:
            return _refuse(
                letter, "its value was too large to be kept: a copy would be a tombstone"
            )
        if letter.lost_its_headers:
            return _refuse(letter, "its original headers cannot be read by this client")
    else:
        before = origins.attempts.get(origin)
        if before is None:
            return _refuse(letter, "its origin cannot be read")
        attempts += before
    attempts = max(1, attempts)
    return Verdict(
        Fate.PARK if attempts > MAX_ATTEMPTS and not once_more else Fate.REPLAY, attempts
    )


def _refuse(letter: Letter, reason: str) -> Verdict:
    return Verdict(Fate.REFUSE, max(1, letter.attempts), reason)
