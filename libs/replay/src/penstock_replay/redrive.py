"""``penstock dlq replay`` and ``park``: each dead letter once, whoever asks and however often.

Every run takes the same transactional id, one per pipeline, and notes each letter it is done with
in the transaction of the copy: two engineers at the same time, or one after a kill, never send a
letter twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.settings import KafkaSettings

from penstock_replay.audit_log import AuditLog, Operation, done_in
from penstock_replay.copier import Copier, Target
from penstock_replay.dead_letters import PARK, DeadLetters, Found, done_by, refuse_to_take_back
from penstock_replay.guard import Fate, Origins, Verdict, judge
from penstock_replay.headers import (
    Record,
    attempts_in,
    headers_of,
    parked_headers,
    redrive_headers,
)
from penstock_replay.letters import LetterFilter
from penstock_replay.pacing import Pacer
from penstock_replay.places import OffsetSet
from penstock_replay.selection import Span
from penstock_replay.session import Progress, Session, run_audited
from penstock_replay.tally import Tally

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
        self._there = broker.names()
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
                if step.found.letter.place.offset not in done.get(step.found.mark, _NOTHING):
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
            target = Target(self._parked(step.found), letter.place.partition, headers)
            session.copy(step.found.message, target)
        session.note(step.found.mark, letter.place.offset, verdict.fate.value)

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
        places = {
            f.letter.origin
            for f in fresh
            if f.letter.origin is not None
            and not f.letter.is_the_event
            and f.letter.origin.offset
            in self._spans.get((f.letter.origin.topic, f.letter.origin.partition), _NOWHERE)
        }
        events = self._letters.reader.records(places)
        heads = {place: headers_of(event) for place, event in events.items()}
        attempts = {place: attempts_in(h) for place, h in heads.items() if h is not None}
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
        return self._topics.parked(found.letter.place.topic.removesuffix(".dlq"))


_NOTHING: Final = OffsetSet()
_NOWHERE: Final = Span(0, 0)
