"""Finding the dead letters of a pipeline, and whether they are done with already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Message
from penstock_schemas.errors import FencedError
from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.settings import KafkaSettings

from penstock_replay.audit_log import Operation, done_in
from penstock_replay.bounds import Bound, Edge, TimeBound
from penstock_replay.letters import Letter, LetterFilter
from penstock_replay.log_reader import LogReader
from penstock_replay.places import OffsetSet
from penstock_replay.selection import Span, mark
from penstock_replay.topic_facts import BrokerFacts, TopicFacts

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
        self.broker = BrokerFacts(kafka)
        self.reader = LogReader(kafka)

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
        known = self.broker.names()
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
            marks = {p: mark(facts.name, p, facts.topic_id) for p in facts.ends}
            for batch in self.reader.read(facts.name, _spans(wanted, facts)):
                found = []
                for message in batch:
                    letter = Letter.read(message)
                    if wanted.takes(letter):
                        name = marks[letter.place.partition]
                        is_done = letter.place.offset in done.get(name, _NOTHING)
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
        if wanted.places:
            offsets = [
                p.offset
                for p in wanted.places
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
