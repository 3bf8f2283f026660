"""From words to a fixed selection: what ``penstock replay`` is allowed to copy, and where to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from penstock_schemas.errors import Refused
from penstock_schemas.topics import AUDIT_TOPIC

from penstock_replay.bounds import Bound, Edge, OffsetBound, TimeBound
from penstock_replay.selection import Selection, Span
from penstock_replay.topic_facts import BrokerFacts, TopicFacts


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


def fix_selection(request: RangeRequest, broker: BrokerFacts) -> Selection:
    """Resolve the bounds against the log as it is now.

    Raises
    ------
    Refused
        If retention has passed a part of the range.
    """
    facts = broker.topic(request.topic)
    first = _first_offsets(request.since, facts, broker)
    end = _end_offsets(request.until, facts)
    spans = {
        p: Span(first[p], min(end[p], facts.ends[p]))
        for p in sorted(first.keys() & end.keys())
        if first[p] < min(end[p], facts.ends[p])
    }
    _check_retention(request.since, spans, facts)
    since_ms = request.since.at_ms if isinstance(request.since, TimeBound) else None
    until_ms = request.until.at_ms if isinstance(request.until, TimeBound) else None
    return Selection(facts.name, facts.topic_id, spans, since_ms, until_ms, request.keys)


def _first_offsets(bound: Bound, facts: TopicFacts, broker: BrokerFacts) -> Mapping[int, int]:
    match bound:
        case Edge.START:
            return facts.oldest
        case Edge.END:
            return facts.ends
        case TimeBound(at_ms):
            return broker.first_at(facts, at_ms)
        case OffsetBound():
            return facts.named(bound)


def _end_offsets(bound: Bound, facts: TopicFacts) -> Mapping[int, int]:
    match bound:
        case Edge.START:
            return facts.oldest
        case OffsetBound():
            return facts.named(bound)
        case _:
            # A later record may have an earlier timestamp: a time bounds no offsets from above.
            return facts.ends


def _check_retention(since: Bound, spans: Mapping[int, Span], facts: TopicFacts) -> None:
    for partition, span in spans.items():
        oldest = facts.oldest[partition]
        place = f"{facts.name}/{partition}"
        if span.first < oldest:
            raise Refused(
                f"--from: retention has passed {place}/{span.first}, the oldest record left is "
                f"{oldest}; '--from start' takes what is left"
            )
        # The oldest record left is inside the range: there may have been others before it.
        if isinstance(since, TimeBound) and 0 < oldest == span.first:
            raise Refused(
                f"--from: the log of {place} begins inside the range, at offset {oldest}: "
                "retention has passed what was before; '--from start' takes what is left"
            )
