"""``penstock replay``: a range of a topic copied again, exactly once however often it is killed.

A replay is known by its words. Its begin in the audit fixes the range, its progress there tells
what is copied; so the same command, given again, goes on with the same range where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from penstock_schemas.errors import Refused
from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import AUDIT_TOPIC, PipelineTopics, Topic
from penstock_streaming.admin import admin_client, change_topics, plan_topics, wait_visible
from penstock_streaming.audit import AuditLog, Operation
from penstock_streaming.log_view import Span
from penstock_streaming.settings import KafkaSettings

from penstock_replay.broker import Broker, TopicFacts
from penstock_replay.headers import Record, copy_headers, headers_of, id_of, original_of
from penstock_replay.offsets import Bound, OffsetSet, TimeBound, audit_name, done_in
from penstock_replay.session import Copier, Pacer, Progress, Session, Target, run_audited

ACTION = "replay"


class Pick(Enum):
    """What a replay does with a record; the value is its name in counts."""

    SELECTED = "selected"
    OTHER_TIME = "other_time"
    OTHER_KEY = "other_key"
    COPY = "copy"
    """It is a copy, and what it is a copy of is selected itself."""
    UNREADABLE = "unreadable_headers"
    """The client cannot read its headers, so no true copy can be made."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A range of a topic, with its end fixed.

    Parameters
    ----------
    topic_id
        Identity of the topic: one created anew under the same name has other records.
    spans
        By partition. Everything outside is not read.
    since_ms, until_ms
        Timestamps, from and before; None where offsets bound the range. Timestamps need not rise
        with the offsets: a copy has the timestamp of its original.
    keys
        Only records with one of these; empty takes all.
    """

    topic: str
    topic_id: str
    spans: Mapping[int, Span]
    since_ms: int | None = None
    until_ms: int | None = None
    keys: frozenset[bytes] = frozenset()

    def pick(self, record: Record) -> Pick:
        """Decide about a record inside the spans."""
        timestamp_ms = record.timestamp()[1]
        if self.since_ms is not None and timestamp_ms < self.since_ms:
            return Pick.OTHER_TIME
        if self.until_ms is not None and timestamp_ms >= self.until_ms:
            return Pick.OTHER_TIME
        if self.keys and record.key() not in self.keys:
            return Pick.OTHER_KEY
        headers = headers_of(record)
        if headers is None:
            return Pick.UNREADABLE
        original = original_of(headers)
        if original is None or original.topic != self.topic:
            return Pick.SELECTED
        span = self.spans.get(original.partition)
        # Timestamp and key of a copy are its original's: only the offset tells whether that one
        # is selected. A copy of a copy is skipped because of the copy in the middle.
        return Pick.COPY if span is not None and original.offset in span else Pick.SELECTED

    def rest(self, done: Mapping[str, OffsetSet]) -> dict[int, Span]:
        """Return what is left to read, given what was read: always the first part of a span."""
        left: dict[int, Span] = {}
        for partition, span in self.spans.items():
            offsets = done.get(self.mark(partition))
            read = len(offsets) if offsets is not None else 0
            if span.first + read < span.end:
                left[partition] = Span(span.first + read, span.end)
        return left

    def mark(self, partition: int) -> str:
        """Return the name of a partition in the audit."""
        return audit_name(self.topic, partition, self.topic_id)

    @property
    def ranges(self) -> dict[str, str]:
        """The spans as the audit holds them."""
        return {
            self.mark(p): str(OffsetSet(f"{s.first}-{s.end - 1}"))
            for p, s in sorted(self.spans.items())
            if s.offsets
        }


def spans_of(ranges: Mapping[str, str], topic: str, topic_id: str) -> dict[int, Span]:
    """Return the spans that an audit record tells of one topic."""
    found: dict[int, Span] = {}
    for name, text in ranges.items():
        where, _, found_id = name.partition("@")
        found_topic, _, partition = where.rpartition("/")
        if (found_topic, found_id) == (topic, topic_id):
            first, _, last = text.partition("-")
            found[int(partition)] = Span(int(first), int(last or first) + 1)
    return found


def operation_id(topic_id: str, arguments: Mapping[str, str]) -> str:
    """Return the id of a replay: the same words about the same topic are the same replay.

    Examples
    --------
    >>> operation_id("x", {"from": "start"}) == operation_id("x", {"from": "start"})
    True
    """
    text = json.dumps([topic_id, sorted(arguments.items())])
    return "replay-" + hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A replay as it was asked for.

    Parameters
    ----------
    to_topic
        The topic of an isolated replay; None appends to ``topic`` itself.
    per_s
        Copies per second; None is as fast as it goes.
    words
        The arguments as they were given: what tells one replay from another.
    """

    topic: str
    since: Bound
    until: Bound
    keys: frozenset[bytes] = frozenset()
    to_topic: str | None = None
    per_s: float | None = None
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which topics may be appended to.

    Parameters
    ----------
    events
        Events topics of the pipelines: replayed in place.
    owned
        Topics that services write: nothing else may.
    """

    events: Collection[str]
    owned: Collection[str]


def check_target(request: RangeRequest, rules: Rules) -> None:
    """Refuse what would spoil a topic.

    Raises
    ------
    Refused
        If the replay may not write where it would.
    """
    target = request.to_topic
    if target is None or target == request.topic:
        if request.topic not in rules.events:
            known = ", ".join(sorted(rules.events)) or "none"
            raise Refused(
                f"{request.topic} is not replayed in place, only events topics are ({known}): "
                "give --to-topic, or the pipeline by --pipeline"
            )
        return
    if target in rules.owned or target == AUDIT_TOPIC or target.startswith("__"):
        raise Refused(f"--to-topic {target} is a topic of a pipeline: give one of your own")


def fix_selection(request: RangeRequest, broker: Broker) -> Selection:
    """Resolve the bounds against the log as it is now.

    Raises
    ------
    Refused
        If retention has passed a part of the range.
    """
    facts = broker.topic(request.topic)
    first = broker.offsets_of(request.since, facts)
    # A later record may have an earlier timestamp: a time bounds no offsets from above.
    is_time = isinstance(request.until, TimeBound)
    end = facts.ends if is_time else broker.offsets_of(request.until, facts)
    spans = {
        p: Span(first[p], min(end[p], facts.ends[p]))
        for p in sorted(first.keys() & end.keys())
        if first[p] < min(end[p], facts.ends[p])
    }
    _check_retention(request.since, spans, facts)
    since_ms = request.since.at_ms if isinstance(request.since, TimeBound) else None
    until_ms = request.until.at_ms if isinstance(request.until, TimeBound) else None
    return Selection(facts.name, facts.topic_id, spans, since_ms, until_ms, request.keys)


def _check_retention(since: Bound, spans: Mapping[int, Span], facts: TopicFacts) -> None:
    for partition, span in spans.items():
        oldest = facts.oldest[partition]
        where = f"{facts.name}/{partition}"
        if span.first < oldest:
            raise Refused(
                f"--from: retention has passed {where}/{span.first}, the oldest record left is "
                f"{oldest}; '--from start' takes what is left"
            )
        # The oldest record left is inside the range: there may have been others before it.
        if isinstance(since, TimeBound) and 0 < oldest == span.first:
            raise Refused(
                f"--from: the log of {where} begins inside the range, at offset {oldest}: "
                "retention has passed what was before; '--from start' takes what is left"
            )


@dataclass(frozen=True, slots=True)
class RangePlan:
    """What a replay will do.

    Parameters
    ----------
    is_begun
        An earlier run of it stopped before its end: this one goes on.
    target
        The topic of the copies.
    """

    operation_id: str
    selection: Selection
    target: str
    is_begun: bool


class RangeReplay:
    """Plans and runs one replay.

    Parameters
    ----------
    audit
        Where its steps are noted.
    rules
        Which topics may be written.
    """

    def __init__(
        self, kafka: KafkaSettings, audit: AuditLog, request: RangeRequest, rules: Rules
    ) -> None:
        self._kafka = kafka
        self._audit = audit
        self._request = request
        self._rules = rules
        self._broker = Broker(kafka)

    def plan(self, *, again: bool = False) -> RangePlan:
        """Fix the range; writes nothing.

        Parameters
        ----------
        again
            Start anew although the same replay has been done before.

        Raises
        ------
        Refused
            If it may not be done, or has been done.
        """
        request = self._request
        check_target(request, self._rules)
        selection = fix_selection(request, self._broker)
        target = request.to_topic or request.topic
        self._check_partitions(target, selection)
        base = operation_id(selection.topic_id, request.words)
        events = [e for e in self._audit.events() if e.operation_id.startswith(base)]
        number = 1 + sum(is_success(e) for e in events)
        if number > 1 and not again:
            raise Refused(
                f"this replay has been done ({base}-{number - 1}); --again does it once more"
            )
        name = f"{base}-{number}"
        own = [e for e in events if e.operation_id == name]
        fixed = _as_begun(selection, own)
        return RangePlan(name, fixed or selection, target, fixed is not None)

    def dry_run(self, plan: RangePlan) -> dict[int, Counter[str]]:
        """Return what would become of the records of each partition."""
        counts: dict[int, Counter[str]] = {p: Counter() for p in plan.selection.spans}
        spans = plan.selection.rest(done_in(self._own(plan.operation_id)))
        for batch in self._broker.read(plan.selection.topic, spans):
            for message in batch:
                counts[message.partition() or 0][plan.selection.pick(message).value] += 1
        return counts

    def run(self, plan: RangePlan, actor: str, on_progress: Progress) -> Counter[str]:
        """Copy what the plan selects, and return the counts, those of earlier runs included.

        Raises
        ------
        FencedError
            If the same replay is started elsewhere.
        BrokerUnavailable
            If the broker stays away; the same command goes on.
        """
        request = self._request
        self._audit.ensure()
        self._make_target(plan)
        words = {**request.words, "rate": "" if request.per_s is None else f"{request.per_s:g}"}
        operation = Operation(plan.operation_id, actor, ACTION, request.topic, words)
        copier = Copier(self._kafka, f"penstock-{plan.operation_id}", self._audit)
        session = Session(copier, operation, Pacer(request.per_s), on_progress)
        run_audited(session, lambda: self._attempt(plan, session), self._audit, operation)
        return session.totals

    def _attempt(self, plan: RangePlan, session: Session) -> None:
        session.open({})
        own = self._own(plan.operation_id)
        session.totals.update(_counts_in(own))
        if any(map(is_success, own)):
            return  # the commit whose outcome was unknown has come through
        selection = _as_begun(plan.selection, own)
        if selection is None:
            selection = plan.selection
            session.begin(selection.ranges)
        marks = {p: selection.mark(p) for p in selection.spans}
        for batch in self._broker.read(selection.topic, selection.rest(done_in(own))):
            for message in batch:
                pick = selection.pick(message)
                original = id_of(message)
                if pick is Pick.SELECTED:
                    headers = copy_headers(headers_of(message) or [], original)
                    session.copy(message, Target(plan.target, original.partition, headers))
                session.note(marks[original.partition], original.offset, pick.value)
        session.finish()

    def _own(self, name: str) -> list[AuditEvent]:
        return [e for e in self._audit.events() if e.operation_id == name]

    def _check_partitions(self, target: str, selection: Selection) -> None:
        if target == selection.topic or target not in self._broker.topic_names():
            return
        there = self._broker.topic(target).ends
        missing = [p for p in selection.spans if p not in there]
        if missing:
            raise Refused(
                f"--to-topic {target} has no partition {missing[0]}: copies keep the partition of "
                "their original; give a topic with as many partitions, or one that is not there yet"
            )

    def _make_target(self, plan: RangePlan) -> None:
        """Create the topic of an isolated replay as an events topic is: any timestamp, any size."""
        source = self._request.topic
        if plan.target in self._broker.topic_names():
            return
        partitions = len(self._broker.topic(source).ends)
        like = PipelineTopics("any").all(partitions)[0]
        admin = admin_client(self._kafka)
        wanted = [Topic(plan.target, partitions, None, like.config)]
        changes = plan_topics(admin, wanted, self._kafka.request_timeout_s)
        change_topics(admin, changes, self._kafka.request_timeout_s)
        wait_visible(admin, wanted, self._kafka.request_timeout_s)


def is_success(event: AuditEvent) -> bool:
    """Return whether an event closes its operation."""
    return event.phase == "end" and event.outcome == "succeeded"


def _as_begun(selection: Selection, events: Sequence[AuditEvent]) -> Selection | None:
    """Return the selection with the spans of the first begin; None if there is none."""
    begin = next((e for e in events if e.phase == "begin"), None)
    if begin is None:
        return None
    spans = spans_of(begin.ranges, selection.topic, selection.topic_id)
    return Selection(
        selection.topic,
        selection.topic_id,
        spans,
        selection.since_ms,
        selection.until_ms,
        selection.keys,
    )


def _counts_in(events: Sequence[AuditEvent]) -> Counter[str]:
    total: Counter[str] = Counter()
    for event in events:
        if event.phase == "progress":
            total.update(event.counts)
    return total
