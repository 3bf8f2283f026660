"""Dead letters, and the breaker that closes a partition which leaves too many of them. Pure.

Key, value, timestamp and the original headers of a dead letter stay byte-identical; the headers of
`penstock_schemas.headers` are replaced, never appended, so that a record that passes a dead-letter
topic twice does not grow.

The breaker counts records, per partition, and not time. What is in the open transaction counts
until that is rolled back, so that what is left are the counts of the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from penstock_schemas import headers as names
from penstock_schemas.errors import RecordError
from penstock_schemas.topics import DEAD_LETTER_HEADROOM_BYTES, EVENTS_MAX_BYTES

if TYPE_CHECKING:
    from confluent_kafka import Message

Header = tuple[str, bytes | None]

MESSAGE_MAX_CHARS = 1024
"""An error message may quote the record; the headers must fit the topic's headroom."""
UNREADABLE_HEADERS = " (a header name is not UTF-8: the original headers are left out)"
_FRAME_BYTES = 5
READ_HEADERS: Final[Any] = methodcaller("headers")
"""For a name that is not UTF-8 the client returns a result with an exception set. A method that is
called often the interpreter calls without looking for that, and crashes later; C always looks."""
TOO_LARGE = " (value of {} bytes left out: it is larger than a dead letter; see dlq.origin)"
DEAD_LETTER_MAX_BYTES: Final = EVENTS_MAX_BYTES + DEAD_LETTER_HEADROOM_BYTES // 2
"""Largest key, value and original headers together; the rest of the headroom is for ours."""

WINDOW_ROWS: Final = 1_000
"""Records of a partition that the share is taken of, be they fewer yet."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record for a dead-letter topic.

    Parameters
    ----------
    timestamp_ms
        The original record's; librdkafka cannot send 0 and stamps such a record anew.
    """

    key: bytes | None
    value: bytes | None
    partition: int
    timestamp_ms: int
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why and where a record failed, apart from the record itself.

    Parameters
    ----------
    service
        The service that gives up on it.
    origin
        ``topic/partition/offset`` in the events topic; None where the record is the origin.
    now_ms
        Wall clock, milliseconds since the epoch.
    """

    error: RecordError
    service: str
    origin: str | None
    now_ms: int


def dead_letter(message: Message, failure: Failure) -> DeadLetter:
    """Build the dead letter of a message.

    A compressed batch may hold records that no topic takes by themselves. Such a letter has no
    value; without one a letter is of no other kind, for a tombstone is no dead letter.
    """
    original = _headers_of(message)
    added = _failure_headers(message, failure, dict(original or ()))
    if original is None:
        added[names.ERROR_MESSAGE] += UNREADABLE_HEADERS
    kept = [header for header in original or () if header[0] not in names.DEAD_LETTER_HEADERS]
    key, value = message.key(), message.value()
    if _size(key, value, kept) > DEAD_LETTER_MAX_BYTES:
        added[names.ERROR_MESSAGE] += TOO_LARGE.format(len(value or b""))
        value = None
        if _size(key, value, kept) > DEAD_LETTER_MAX_BYTES:
            key, kept = None, []
    return DeadLetter(
        key=key,
        value=value,
        partition=message.partition() or 0,
        timestamp_ms=message.timestamp()[1],
        headers=kept + [(name, text.encode()) for name, text in added.items()],
    )


def _size(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    in_headers = sum(len(name) + len(content or b"") for name, content in headers)
    return len(key or b"") + len(value or b"") + in_headers


def _headers_of(message: Message) -> Sequence[Header] | None:
    """Return the headers as a list of pairs, or None where the client cannot read them.

    It knows header names as text only: a name that is not UTF-8 hides all headers of the record.
    """
    try:
        raw = READ_HEADERS(message) or []
    except (UnicodeDecodeError, SystemError):
        return None
    pairs = raw.items() if isinstance(raw, dict) else raw
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def _failure_headers(
    message: Message, failure: Failure, before: dict[str, bytes | None]
) -> dict[str, str]:
    error = failure.error
    place = f"{message.topic()}/{message.partition()}/{message.offset()}"
    first = _text(before.get(names.DLQ_FIRST_FAILED_AT))
    schema_id = error.schema_id if error.schema_id is not None else _framed_id(message.value())
    return {
        names.ERROR_EXCEPTION: type(error).__name__,
        names.ERROR_MESSAGE: str(error)[:MESSAGE_MAX_CHARS],
        names.ERROR_TOPIC: str(message.topic()),
        names.ERROR_PARTITION: str(message.partition()),
        names.ERROR_OFFSET: str(message.offset()),
        names.DLQ_SERVICE: failure.service,
        names.DLQ_STAGE: error.stage,
        names.DLQ_CLASS: error.dead_letter_class,
        names.DLQ_ATTEMPT: str(_attempt(before.get(names.DLQ_ATTEMPT)) + 1),
        names.DLQ_FIRST_FAILED_AT: first or _iso(failure.now_ms),
        names.DLQ_SCHEMA_ID: "" if schema_id is None else str(schema_id),
        names.DLQ_MODEL: error.model or "",
        names.DLQ_ORIGIN: failure.origin or place,
    }


def _text(value: bytes | None) -> str:
    return value.decode(errors="replace") if value else ""


def _attempt(value: bytes | None) -> int:
    """Return the attempts so far; what is not a number counts as none."""
    text = _text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _framed_id(value: bytes | None) -> int | None:
    """Return the schema id of a Confluent-framed value, if the frame is there."""
    if value is None or len(value) < _FRAME_BYTES or value[0] != 0:
        return None
    return int.from_bytes(value[1:_FRAME_BYTES], "big")


def _iso(now_ms: int) -> str:
    moment = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class BreakerLimits:
    """How many dead letters a partition may leave.

    Parameters
    ----------
    share
        Of the last `WINDOW_ROWS` records; 0 for any.
    in_row
        One after the other; 0 for any.
    """

    share: float
    in_row: int


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a partition is closed.

    Parameters
    ----------
    row
        Of the batch: the first dead letter too many.
    kind
        The limit that was passed.
    dead
        Dead letters counted, in a row or of the last `WINDOW_ROWS`.
    """

    partition: int
    row: int
    kind: Literal["in_row", "share"]
    dead: int

    def __str__(self) -> str:
        if self.kind == "in_row":
            return f"{self.dead} dead letters in a row"
        return f"{self.dead} dead letters among the last {WINDOW_ROWS} records"


@dataclass(slots=True)
class _History:
    """Of one partition: records seen, which of the last ones died, and how many in a row."""

    seen: int
    dead: deque[int]
    in_row: int

    def copy(self) -> _History:
        return _History(self.seen, self.dead.copy(), self.in_row)

    def count_dead(self, number: int) -> None:
        """Count the dead letter of the record of that number."""
        follows = bool(self.dead) and self.dead[-1] == number - 1
        self.in_row = self.in_row + 1 if follows else 1
        self.dead.append(number)
        while self.dead[0] <= number - WINDOW_ROWS:
            self.dead.popleft()


class DeadLetterBreaker:
    """Counts dead letters per partition and finds when a partition must be closed.

    Parameters
    ----------
    limits
        In force until `tune`.

    Attributes
    ----------
    tripped
        The closed partitions.

    Examples
    --------
    >>> breaker = DeadLetterBreaker(BreakerLimits(share=0.2, in_row=2))
    >>> breaker.count_batch(np.zeros(4, np.int32), [0, 2, 3])
    >>> str(breaker.count_batch(np.zeros(1, np.int32), [0]))
    '3 dead letters in a row'
    """

    def __init__(self, limits: BreakerLimits) -> None:
        self.tripped: dict[int, Trip] = {}
        self._limits = limits
        self._histories: dict[int, _History] = {}
        self._committed: dict[int, _History] = {}

    def count_batch(
        self, partitions: npt.NDArray[np.integer[Any]], dead_rows: Sequence[int]
    ) -> Trip | None:
        """Count a batch into the open transaction.

        Parameters
        ----------
        partitions
            Of every row, in order of offsets, shape (n,).
        dead_rows
            Rows that are dead letters, in any order.

        Returns
        -------
        What trips the breaker, at the first row that does: the transaction must be rolled back.
        """
        counts = np.bincount(partitions)
        dead = np.sort(np.asarray(dead_rows, np.int64))
        dying = set(partitions[dead].tolist())
        trips = []
        for partition in np.flatnonzero(counts).tolist():
            history = self._history_of(partition)
            if partition in dying:
                rows = np.flatnonzero(partitions == partition)
                trip = self._count_dead_rows(
                    partition, history, rows, dead[partitions[dead] == partition]
                )
                trips += [trip] if trip is not None else []
            history.seen += int(counts[partition])
        if not trips:
            return None
        first = min(trips, key=lambda trip: trip.row)
        self.tripped[first.partition] = first
        return first

    def commit(self) -> None:
        """Keep what was counted: it is in the log."""
        self._committed.clear()

    def roll_back(self) -> None:
        """Drop what was counted since the last commit: it is not in the log."""
        self._histories.update(self._committed)
        self._committed.clear()

    def forget_partitions(self, partitions: Iterable[int]) -> None:
        """Drop partitions that are no longer ours, the closed ones too."""
        for partition in partitions:
            for known in (self._histories, self._committed, self.tripped):
                known.pop(partition, None)

    def tune(self, limits: BreakerLimits) -> set[int]:
        """Change the limits.

        Returns
        -------
        The partitions that were closed and go on: those whose limit is raised or switched off.
        """
        before, self._limits = self._limits, limits
        raised = {
            partition
            for partition, trip in self.tripped.items()
            if _is_raised(getattr(before, trip.kind), getattr(limits, trip.kind))
        }
        for partition in raised:
            del self.tripped[partition]
        return raised

    def _count_dead_rows(
        self,
        partition: int,
        history: _History,
        rows: npt.NDArray[np.intp],
        dead: npt.NDArray[np.int64],
    ) -> Trip | None:
        """Count the dead letters among a partition's rows, up to the first too many."""
        for row, place in zip(dead.tolist(), np.searchsorted(rows, dead).tolist(), strict=True):
            history.count_dead(history.seen + place)
            trip = self._judge(partition, row, history)
            if trip is not None:
                return trip
        return None

    def _history_of(self, partition: int) -> _History:
        """Return a partition's history, after keeping what of it is committed."""
        history = self._histories.setdefault(partition, _History(0, deque(), 0))
        if partition not in self._committed:
            self._committed[partition] = history.copy()
        return history

    def _judge(self, partition: int, row: int, history: _History) -> Trip | None:
        limits = self._limits
        if limits.in_row and history.in_row > limits.in_row:
            return Trip(partition, row, "in_row", history.in_row)
        if limits.share and len(history.dead) > limits.share * WINDOW_ROWS:
            return Trip(partition, row, "share", len(history.dead))
        return None


def _is_raised(before: float, after: float) -> bool:
    return after == 0 or 0 < before < after
