"""Dead letters as an engineer looks for them: class, cause, origin, attempts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from penstock_schemas import headers as names
from penstock_streaming.dead_letters import UNREADABLE_HEADERS, Header

from penstock_replay.bounds import Bound, Edge, TimeBound
from penstock_replay.headers import Record, attempts_in, headers_of, place_of
from penstock_replay.places import Place

UNKNOWN_CLASS = "unknown"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Parameters
    ----------
    place
        Where it lies in its dead-letter topic.
    source
        The topic it failed in; empty if it does not say.
    origin
        The record of a producer application that it goes back to; None if it does not say.
    attempts
        How often it has failed, as far as its own headers know.
    failed_at_ms
        When it first failed, milliseconds since the epoch; None if it does not say.
    has_value
        Whether it holds the value that failed; one that is too large for any topic is left out.
    """

    place: Place
    source: str
    origin: Place | None
    dead_letter_class: str
    service: str
    stage: str
    cause: str
    attempts: int
    failed_at_ms: int | None
    headers: list[Header]
    has_value: bool

    @classmethod
    def read(cls, record: Record) -> Letter:
        """Build it from a record; a header that is missing or odd leaves its field empty."""
        headers = headers_of(record) or []
        last = dict(headers)

        def text(name: str) -> str:
            return (last.get(name) or b"").decode(errors="replace")

        exception, message = text(names.ERROR_EXCEPTION), text(names.ERROR_MESSAGE)
        return cls(
            place=place_of(record),
            source=text(names.ERROR_TOPIC),
            origin=_place(text(names.DLQ_ORIGIN)),
            dead_letter_class=text(names.DLQ_CLASS) or UNKNOWN_CLASS,
            service=text(names.DLQ_SERVICE),
            stage=text(names.DLQ_STAGE),
            cause=f"{exception}: {message}" if exception else message,
            attempts=attempts_in(headers),
            failed_at_ms=_time_ms(text(names.DLQ_FIRST_FAILED_AT)),
            headers=headers,
            has_value=record.value() is not None,
        )

    @property
    def is_the_event(self) -> bool:
        """Tell whether it holds the bytes of its origin, not of what a service made of it."""
        return self.origin is not None and self.source == self.origin.topic

    @property
    def lost_its_headers(self) -> bool:
        """Tell whether the service could not carry the original headers over."""
        return self.cause.endswith(UNREADABLE_HEADERS)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant.

    Parameters
    ----------
    classes
        Only these; empty takes all.
    since, until
        Times mean the first failure, offsets the dead-letter topic; from and before.
    places
        Only these; empty takes all.
    """

    classes: frozenset[str] = frozenset()
    since: Bound = Edge.START
    until: Bound = Edge.END
    places: frozenset[Place] = frozenset()

    def takes(self, letter: Letter) -> bool:
        """Tell whether a letter is meant; offsets outside the bounds are never read."""
        if self.classes and letter.dead_letter_class not in self.classes:
            return False
        if self.places and letter.place not in self.places:
            return False
        failed_at_ms = letter.failed_at_ms
        if isinstance(self.since, TimeBound) and (
            failed_at_ms is None or failed_at_ms < self.since.at_ms
        ):
            return False
        return not isinstance(self.until, TimeBound) or (
            failed_at_ms is not None and failed_at_ms < self.until.at_ms
        )


def short_cause(cause: str, width: int = 72) -> str:
    """Return a cause such that those that differ in numbers only are the same.

    Examples
    --------
    >>> short_cause("RuleViolation: amount 17.5 is over 10")
    'RuleViolation: amount # is over #'
    """
    words = ["#" if any(c.isdigit() for c in word) else word for word in cause.split()]
    text = " ".join(words)
    return text if len(text) <= width else text[: width - 1] + "…"


def _place(text: str) -> Place | None:
    try:
        return Place.parse(text)
    except ValueError:
        return None


def _time_ms(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
