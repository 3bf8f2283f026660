"""``penstock replay``: a range of a topic once more, exactly once however often it is killed.

A replay is known by its words. Its begin in the audit fixes the range, its progress there tells
what is copied; so the same command, given again, goes on with the same range where it stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from penstock_schemas.errors import Refused
from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics, Topic
from penstock_streaming.admin import admin_client, change_topics, plan_topics, wait_visible
from penstock_streaming.settings import KafkaSettings

from penstock_replay.audit_log import AuditLog, Operation, done_in
from penstock_replay.copier import Copier, Target
from penstock_replay.headers import copy_headers, headers_of, place_of
from penstock_replay.log_reader import LogReader
from penstock_replay.pacing import Pacer
from penstock_replay.places import OffsetSet
from penstock_replay.range_plan import RangeRequest, Rules, check_target, fix_selection
from penstock_replay.selection import Pick, Selection, operation_id, spans_of
from penstock_replay.session import Progress, Session, run_audited
from penstock_replay.topic_facts import BrokerFacts

ACTION = "replay"


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
        self._broker = BrokerFacts(kafka)
        self._reader = LogReader(kafka)

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
        spans = plan.selection.rest(self._done(plan.operation_id))
        for batch in self._reader.read(plan.selection.topic, spans):
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
        for batch in self._reader.read(selection.topic, selection.rest(done_in(own))):
            for message in batch:
                pick = selection.pick(message)
                place = place_of(message)
                if pick is Pick.SELECTED:
                    headers = copy_headers(headers_of(message) or [], place)
                    session.copy(message, Target(plan.target, place.partition, headers))
                session.note(marks[place.partition], place.offset, pick.value)
        session.finish()

    def _own(self, name: str) -> list[AuditEvent]:
        return [e for e in self._audit.events() if e.operation_id == name]

    def _done(self, name: str) -> dict[str, OffsetSet]:
        return done_in(self._own(name))

    def _check_partitions(self, target: str, selection: Selection) -> None:
        if target == selection.topic or target not in self._broker.names():
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
        if plan.target in self._broker.names():
            return
        partitions = len(self._broker.topic(source).ends)
        like = PipelineTopics("any").all(partitions)[0]
        admin = admin_client(self._kafka)
        wanted = [Topic(plan.target, partitions, None, like.config)]
        changes = plan_topics(admin, wanted, self._kafka.request_timeout_s)
        change_topics(admin, changes, self._kafka.request_timeout_s)
        wait_visible(admin, wanted, self._kafka.request_timeout_s)


def is_success(event: AuditEvent) -> bool:
    """Tell whether an event closes its operation."""
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
