"""What became of each retrain request: the fold of a pipeline's retrain events. No I/O, no clock.

Used by everybody who reads the retrain topic: the trigger that decides, the job, the command line.
The state is a function of the set of (event, offset) alone: events may come in any order and any
number of times. Where two records contradict each other, the one with the lower offset counts.

Readers differ in one rule, which states end a request. It is the parameter ``ends``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from penstock_schemas.records import RetrainEvent

REQUESTED: Final = "requested"
ACCEPTED: Final = "accepted"
SUPPRESSED: Final = "suppressed"
RESUBMITTED: Final = "resubmitted"
STARTED: Final = "started"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
DECISIONS: Final = frozenset({ACCEPTED, SUPPRESSED})
ENDS: Final = frozenset({FINISHED, FAILED, CANCELLED})
"""States that end an accepted request."""
ENDS_OR_SUPPRESSED: Final = ENDS | {SUPPRESSED}
"""States after which nothing follows, for those who look at every request alike."""
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""An id that can name a job on Ray and a run."""
BY_HAND: Final = frozenset({"cli", "rest"})
"""Sources of requests made by a person."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event and its offset."""

    offset: int
    event: RetrainEvent


@dataclass(slots=True)
class Request:
    """One request with all that followed.

    Parameters
    ----------
    steps
        By event id; of a repeated one, the first.
    ends
        States that end it.
    """

    request_id: str
    steps: dict[str, Step] = field(default_factory=dict)
    ends: frozenset[str] = ENDS

    def fold(self, event: RetrainEvent, offset: int) -> bool:
        """Take an event of this request in; return whether its id is new."""
        known = self.steps.get(event.event_id)
        if known is None or offset < known.offset:
            self.steps[event.event_id] = Step(offset, event)
        return known is None

    @property
    def events(self) -> list[RetrainEvent]:
        """Every event once, in the order of the topic."""
        return [s.event for s in sorted(self.steps.values(), key=lambda step: step.offset)]

    def first(self, states: frozenset[str]) -> Step | None:
        """Return the step in one of these states with the lowest offset."""
        found = [step for step in self.steps.values() if step.event.state in states]
        return min(found, key=lambda step: step.offset, default=None)

    def event(self, state: str) -> RetrainEvent | None:
        """Return the first event of a state."""
        found = self.first(frozenset({state}))
        return None if found is None else found.event

    @property
    def requested(self) -> Step | None:
        """The request itself; None if only what followed has been seen."""
        return self.first(frozenset({REQUESTED}))

    @property
    def decision(self) -> Step | None:
        """The decision about it."""
        return self.first(DECISIONS)

    @property
    def end(self) -> Step | None:
        """Its end; None while it is open."""
        return self.first(self.ends)

    @property
    def last(self) -> RetrainEvent:
        """The event that ended it, or the newest."""
        return self.events[-1] if self.end is None else self.end.event

    @property
    def is_accepted(self) -> bool:
        """Whether it was accepted, whatever became of it."""
        decision = self.decision
        return decision is not None and decision.event.state == ACCEPTED

    @property
    def is_started(self) -> bool:
        """Whether its job has written ``started``."""
        return self.event(STARTED) is not None

    @property
    def is_undecided(self) -> bool:
        """Whether it still needs a decision; one that was cancelled before needs none."""
        return self.requested is not None and self.decision is None and self.end is None

    @property
    def is_in_flight(self) -> bool:
        """Whether it is accepted and has not ended."""
        return self.is_accepted and self.end is None

    @property
    def is_open(self) -> bool:
        """Whether nothing has ended it, decided or not."""
        return self.end is None

    @property
    def submissions(self) -> int:
        """How many submissions of its job have been ordered: by the decision, and each again."""
        again = sum(step.event.state == RESUBMITTED for step in self.steps.values())
        return again + self.is_accepted

    @property
    def state(self) -> str:
        """The state as people read it."""
        decision, end = self.decision, self.end
        if decision is not None and decision.event.state == SUPPRESSED:
            return SUPPRESSED
        if end is not None:
            return end.event.state
        if self.is_started:
            return STARTED
        return ACCEPTED if decision is not None else REQUESTED


@dataclass(slots=True)
class Ledger:
    """All requests of one pipeline.

    Parameters
    ----------
    ends
        States that end a request.
    """

    requests: dict[str, Request] = field(default_factory=dict)
    ends: frozenset[str] = ENDS
    _undecided: set[str] = field(default_factory=set, repr=False)
    _accepted: set[str] = field(default_factory=set, repr=False)

    def fold(self, event: RetrainEvent, offset: int) -> bool:
        """Take in an event; return whether its id is new."""
        name = event.request_id
        request = self.requests.setdefault(name, Request(name, ends=self.ends))
        is_new = request.fold(event, offset)
        _keep(self._undecided, name, request.is_undecided)
        _keep(self._accepted, name, request.is_accepted)
        return is_new

    def holds(self, event: RetrainEvent) -> bool:
        """Return whether the event is in the topic."""
        request = self.requests.get(event.request_id)
        return request is not None and event.event_id in request.steps

    def undecided(self) -> list[Request]:
        """Return the requests that need a decision, in the order of the topic."""
        found = [self.requests[name] for name in self._undecided]
        return sorted(found, key=lambda request: _offset(request.requested))

    def accepted(self) -> list[Request]:
        """Return the accepted requests, ended ones too, in the order of acceptance."""
        found = [self.requests[name] for name in self._accepted]
        return sorted(found, key=lambda request: _offset(request.decision))

    def in_flight(self) -> list[Request]:
        """Return the accepted requests that have not ended; by the rules at most one."""
        return [request for request in self.accepted() if request.is_in_flight]

    def events(self) -> Iterator[RetrainEvent]:
        """Yield every event once."""
        for request in self.requests.values():
            for step in request.steps.values():
                yield step.event


def requests_of(events: Iterable[RetrainEvent], ends: frozenset[str] = ENDS) -> list[Request]:
    """Return the requests of events given in the order of the topic, in that order."""
    ledger = Ledger(ends=ends)
    for offset, event in enumerate(events):
        ledger.fold(event, offset)
    return list(ledger.requests.values())


def _keep(names: set[str], name: str, is_one: bool) -> None:
    if is_one:
        names.add(name)
    else:
        names.discard(name)


def _offset(step: Step | None) -> int:
    return -1 if step is None else step.offset
