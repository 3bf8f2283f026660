"""The dead letters of a pipeline: what one says, which are meant, and which are done already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from confluent_kafka import Message
from penstock_schemas import headers as names
from penstock_schemas.errors import FencedError
from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.audit import Operation
from penstock_streaming.dead_letters import UNREADABLE_HEADERS, Header
from penstock_streaming.log_view import Span
from penstock_streaming.settings import KafkaSettings

from penstock_replay.broker import Broker, TopicFacts
from penstock_replay.headers import Record, attempts_in, headers_of, id_of
from penstock_replay.offsets import Bound, Edge, OffsetSet, RecordId, TimeBound, audit_name, done_in

UNKNOWN_CLASS = "unknown"


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter.

    Parameters
    ----------
    record_id
        Of it in its dead-letter topic.
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

    record_id: RecordId
    source: str
    origin: RecordId | None
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
            record_id=id_of(record),
            source=text(names.ERROR_TOPIC),
            origin=_record_id(text(names.DLQ_ORIGIN)),
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
        """Whether it holds the bytes of its origin, not of what a service made of it."""
        return self.origin is not None and self.source == self.origin.topic

    @property
    def lost_its_headers(self) -> bool:
        """Whether the service could not carry the original headers over."""
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
    ids
        Only these; empty takes all.
    """

    classes: frozenset[str] = frozenset()
    since: Bound = Edge.START
    until: Bound = Edge.END
    ids: frozenset[RecordId] = frozenset()

    def takes(self, letter: Letter) -> bool:
        """Return whether a letter is meant; offsets outside the bounds are never read."""
        if self.classes and letter.dead_letter_class not in self.classes:
            return False
        if self.ids and letter.record_id not in self.ids:
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


def _record_id(text: str) -> RecordId | None:
    try:
        return RecordId.parse(text)
    except ValueError:
        return None


def _time_ms(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


REPLAY = "dlq.replay"
PARK = "dlq.park"


@dataclass(frozen=True, slots=True)
class Found:
    """A dead letter with what is known of it.

    Parameters
    ----------
    mark
        Its partition's name in the audit.
    is_done
        It has been replayed or parked.
    """

    letter: Letter
    message: Message
    mark: str
    is_done: bool


class DeadLetters:
    """The dead letters of one pipeline.

    Parameters
    ----------
    topics
        The pipeline's topic names.
    """

    def __init__(self, kafka: KafkaSettings, topics: PipelineTopics) -> None:
        self.topics = topics
        self.broker = Broker(kafka)

    def sources(self) -> list[TopicFacts]:
        """Return the dead-letter topics that are there."""
        names = self.topics
        order = (
            names.events,
            names.features,
            names.interactions,
            names.predictions,
            names.observations,
        )
        return self._there(names.dead_letter(topic) for topic in order)

    def parking(self) -> list[TopicFacts]:
        """Return the topics of parked letters that are there."""
        sources = [facts.name.removesuffix(".dlq") for facts in self.sources()]
        return self._there(self.topics.parked(topic) for topic in sources)

    def _there(self, names: Iterable[str]) -> list[TopicFacts]:
        known = self.broker.topic_names()
        return [self.broker.topic(name) for name in names if name in known]

    def find(
        self,
        wanted: LetterFilter,
        done: Mapping[str, OffsetSet],
        topics: Iterable[TopicFacts] | None = None,
    ) -> Iterator[list[Found]]:
        """Yield the letters that are meant, in batches of one topic, as they lie in the log.

        Parameters
        ----------
        done
            What `done_by` returns.
        topics
            Where to look; the dead-letter topics unless given.
        """
        for facts in self.sources() if topics is None else topics:
            marks = {p: audit_name(facts.name, p, facts.topic_id) for p in facts.ends}
            for batch in self.broker.read(facts.name, _spans(wanted, facts)):
                found = []
                for message in batch:
                    letter = Letter.read(message)
                    if wanted.takes(letter):
                        name = marks[letter.record_id.partition]
                        is_done = letter.record_id.offset in done.get(name, _NOTHING)
                        found.append(Found(letter, message, name, is_done))
                if found:
                    yield found


_NOTHING = OffsetSet()


def done_by(events: Iterable[AuditEvent]) -> dict[str, OffsetSet]:
    """Return which letters the audit knows as replayed or parked.

    A range replay of a dead-letter topic notes its progress too; that one is no redrive.
    """
    return done_in(event for event in events if event.action in (REPLAY, PARK))


def refuse_to_take_back(events: Iterable[AuditEvent], operation: Operation) -> None:
    """Stop if another run has begun since: it has the pipeline's transactional id.

    Raises
    ------
    FencedError
        If there is one.
    """
    begins = [
        event.operation_id
        for event in events
        if event.phase == "begin"
        and event.subject == operation.subject
        and event.action in (REPLAY, PARK)
    ]
    if begins and begins[-1] != operation.operation_id:
        raise FencedError(f"another run has taken over ({begins[-1]}); it goes on there")


def _spans(wanted: LetterFilter, facts: TopicFacts) -> dict[int, Span]:
    spans = {}
    for partition, oldest in facts.oldest.items():
        log = Span(oldest, facts.ends[partition])
        first = max(log.first, _offset(wanted.since, partition, log, is_end=False))
        last = min(log.end, _offset(wanted.until, partition, log, is_end=True))
        if wanted.ids:
            offsets = [
                p.offset
                for p in wanted.ids
                if (p.topic, p.partition) == (facts.name, partition) and p.offset >= first
            ]
            first, last = min(offsets, default=last), min(max(offsets, default=-1) + 1, last)
        if first < last:
            spans[partition] = Span(first, last)
    return spans


def _offset(bound: Bound, partition: int, log: Span, *, is_end: bool) -> int:
    """Return where a bound lies in a partition; a time bounds no offsets."""
    if isinstance(bound, Edge):
        return log.first if bound is Edge.START else log.end
    if isinstance(bound, TimeBound):
        return log.end if is_end else log.first
    offset = bound.of(partition)
    if offset is None:  # a partition that is not named: nothing of it is meant
        return log.first if is_end else log.end
    return offset
