"""``penstock dlq replay`` and ``park``: each dead letter once, whoever asks and however often.

Every run takes the same transactional id, one per pipeline, and notes each letter it is done with
in the transaction of the copy: two engineers at the same time, or one after a kill, never send a
letter twice. A record that keeps failing is parked in the end, so that no letter goes in circles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.audit import AuditLog, Operation
from penstock_streaming.log_view import Span
from penstock_streaming.settings import KafkaSettings

from penstock_replay.dead_letters import (
    PARK,
    DeadLetters,
    Found,
    Letter,
    LetterFilter,
    done_by,
    refuse_to_take_back,
)
from penstock_replay.headers import (
    Record,
    attempts_in,
    headers_of,
    parked_headers,
    redrive_headers,
)
from penstock_replay.offsets import OffsetSet, RecordId, done_in
from penstock_replay.session import Copier, Pacer, Progress, Session, Target, run_audited


@dataclass(slots=True)
class Tally:
    """What became of letters, or would become of them.

    Parameters
    ----------
    rows
        By dead-letter topic, class and fate.
    reasons
        Of the refusals.
    """

    rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found, fate: str, reason: str = "") -> None:
        """Count a letter."""
        self.rows[found.letter.record_id.topic, found.letter.dead_letter_class, fate] += 1
        if reason:
            self.reasons[reason] += 1

    @property
    def counts(self) -> Counter[str]:
        """Letters by fate."""
        total: Counter[str] = Counter()
        for (_, _, fate), letters in self.rows.items():
            total[fate] += letters
        return total


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
    attempts: Mapping[RecordId, int]


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


ALREADY: Final = "already_done"
_FRAME_BYTES: Final = 512
"""What the added headers and the record's own frame take, at most."""


@dataclass(frozen=True, slots=True)
class Step:
    """A dead letter and what becomes of it.

    Parameters
    ----------
    record
        What is copied: the letter, or the event it goes back to.
    """

    found: Found
    verdict: Verdict
    record: Record


class Redrive:
    """Replays or parks dead letters of one pipeline.

    Parameters
    ----------
    action
        ``dlq.replay`` or ``dlq.park``.
    parked
        Among the letters that were put aside; each is replayed, however often it has failed.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        audit: AuditLog,
        topics: PipelineTopics,
        action: str,
        *,
        parked: bool = False,
    ) -> None:
        self._kafka = kafka
        self._audit = audit
        self._topics = topics
        self._action = action
        self._letters = DeadLetters(kafka, topics)
        self._is_parked = parked
        broker = self._letters.broker
        self._there = broker.topic_names()
        facts = {
            name: broker.topic(name)
            for name in (topics.events, topics.interactions)
            if name in self._there
        }
        self._spans = {
            (name, partition): Span(oldest, one.ends[partition])
            for name, one in facts.items()
            for partition, oldest in one.oldest.items()
        }
        self._max_bytes = {name: int(broker.settings(name)["max.message.bytes"]) for name in facts}

    def dry_run(self, wanted: LetterFilter) -> Tally:
        """Return what would become of the letters; writes nothing."""
        tally = Tally()
        for batch in self._find(wanted, self._audit.events()):
            for step in self._steps(batch, tally):
                tally.add(step.found, step.verdict.fate.value, step.verdict.reason)
        return tally

    def run(
        self, wanted: LetterFilter, operation: Operation, per_s: float | None, progress: Progress
    ) -> Tally:
        """Replay or park the letters, and return what became of them.

        Raises
        ------
        FencedError
            If the same pipeline's letters are replayed or parked elsewhere.
        BrokerUnavailable
            If the broker stays away; the same command does the rest.
        """
        self._audit.ensure()
        copier = Copier(self._kafka, f"penstock-redrive-{self._topics.pipeline}", self._audit)
        session = Session(copier, operation, Pacer(per_s), progress)
        tallies: list[Tally] = []
        run_audited(
            session,
            lambda: tallies.append(self._attempt(wanted, operation, session)),
            self._audit,
            operation,
        )
        return tallies[-1]

    def _attempt(self, wanted: LetterFilter, operation: Operation, session: Session) -> Tally:
        if session.commits:
            # The client does not always say why a transaction failed; the audit does.
            refuse_to_take_back(self._audit.events(), operation)
        session.open({})
        tally = Tally()
        events = self._audit.events()
        own = [e for e in events if e.operation_id == operation.operation_id]
        others = [e for e in events if e.operation_id != operation.operation_id]
        is_over = any(e.phase == "end" for e in own)
        if not own:
            session.begin({})
        done = done_in(own)
        for batch in self._find(wanted, others):
            for step in self._steps(batch, tally):
                # What an attempt before has committed is judged once more, for the count.
                if step.found.letter.record_id.offset not in done.get(step.found.mark, _NOTHING):
                    self._take(step, session)
                tally.add(step.found, step.verdict.fate.value, step.verdict.reason)
        if not is_over:
            session.finish(tally.counts)
        return tally

    def _find(self, wanted: LetterFilter, events: list[AuditEvent]) -> Iterator[list[Found]]:
        letters = self._letters
        topics = letters.parking() if self._is_parked else letters.sources()
        return letters.find(wanted, done_by(events), topics)

    def _take(self, step: Step, session: Session) -> None:
        letter, verdict = step.found.letter, step.verdict
        if verdict.fate is Fate.REFUSE:
            return
        if verdict.fate is Fate.REPLAY and letter.origin is not None:
            headers = redrive_headers(
                headers_of(step.record) or [], letter.origin, verdict.attempts
            )
            target = Target(letter.origin.topic, letter.origin.partition, headers)
            session.copy(step.record, target)
        else:
            headers = parked_headers(letter.headers, verdict.attempts)
            target = Target(self._parked(step.found), letter.record_id.partition, headers)
            session.copy(step.found.message, target)
        session.note(step.found.mark, letter.record_id.offset, verdict.fate.value)

    def _steps(self, batch: Sequence[Found], tally: Tally) -> Iterator[Step]:
        """Decide about the letters that are not done; count those that are."""
        fresh = []
        for found in batch:
            if found.is_done:
                tally.add(found, ALREADY)
            else:
                fresh.append(found)
        if self._action == PARK:
            for found in fresh:
                verdict = Verdict(Fate.PARK, max(1, found.letter.attempts))
                yield Step(found, self._parkable(found, verdict), found.message)
            return
        origins_wanted = {
            f.letter.origin
            for f in fresh
            if f.letter.origin is not None
            and not f.letter.is_the_event
            and f.letter.origin.offset
            in self._spans.get((f.letter.origin.topic, f.letter.origin.partition), _NOWHERE)
        }
        events = self._letters.broker.records(origins_wanted)
        heads = {origin: headers_of(event) for origin, event in events.items()}
        attempts = {origin: attempts_in(h) for origin, h in heads.items() if h is not None}
        origins = Origins(self._max_bytes.keys(), self._spans, attempts)
        for found in fresh:
            letter = found.letter
            record = found.message
            if letter.origin is not None and not letter.is_the_event:
                record = events.get(letter.origin, record)
            verdict = self._parkable(found, judge(letter, origins, once_more=self._is_parked))
            yield Step(found, self._fitting(letter.origin, record, verdict), record)

    def _parkable(self, found: Found, verdict: Verdict) -> Verdict:
        topic = self._parked(found)
        if verdict.fate is not Fate.PARK or topic in self._there:
            return verdict
        return Verdict(Fate.REFUSE, verdict.attempts, f"there is no topic {topic}")

    def _fitting(self, origin: object, record: Record, verdict: Verdict) -> Verdict:
        """Refuse a copy that its topic would not take with the headers added."""
        topic = getattr(origin, "topic", "")
        if verdict.fate is not Fate.REPLAY:
            return verdict
        headers = sum(len(n) + len(v or b"") for n, v in headers_of(record) or [])
        size = len(record.key() or b"") + len(record.value() or b"") + headers + _FRAME_BYTES
        if size <= self._max_bytes[topic]:
            return verdict
        reason = f"{topic} takes max.message.bytes={self._max_bytes[topic]}, too little for a copy"
        return Verdict(Fate.REFUSE, verdict.attempts, reason)

    def _parked(self, found: Found) -> str:
        return self._topics.parked(found.letter.record_id.topic.removesuffix(".dlq"))


_NOTHING: Final = OffsetSet()
_NOWHERE: Final = Span(0, 0)
