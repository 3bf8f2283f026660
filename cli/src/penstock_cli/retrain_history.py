"""What became of each request to retrain, from the events alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from penstock_schemas.errors import ConfigError
from penstock_schemas.records import RetrainEvent

ENDS: Final = ("suppressed", "finished", "failed", "cancelled")
"""States after which nothing follows."""
_FACTS: Final = ("verdict", "model_version", "run_id", "job_id")


@dataclass(frozen=True, slots=True)
class Request:
    """A request and everything that followed from it.

    Parameters
    ----------
    events
        In the order of the topic, at least one.
    """

    events: tuple[RetrainEvent, ...]

    @property
    def request_id(self) -> str:
        """Id of the request."""
        return self.events[0].request_id

    @property
    def last(self) -> RetrainEvent:
        """The event that ended it, or the newest."""
        return next((e for e in self.events if e.state in ENDS), self.events[-1])

    @property
    def is_in_flight(self) -> bool:
        """Whether more is to follow."""
        return self.last.state not in ENDS

    def fact(self, name: str) -> Any:
        """Return the newest value of a field that was given at all, else an empty one."""
        values = [getattr(event, name) for event in self.events]
        return next((value for value in reversed(values) if value), values[0])

    def to_dict(self) -> dict[str, Any]:
        """Return the request as ``retrain ls -o json`` prints it."""
        first = self.events[0]
        return {
            "request_id": self.request_id,
            "requested_at": iso(first.at),
            "source": first.source,
            "actor": first.actor,
            "requested_because": first.reason,
            "cause_ids": list(first.cause_ids),
            "data_since": None if first.data_since is None else iso(first.data_since),
            "state": self.last.state,
            "reason": self.last.reason,
            **{name: self.fact(name) or None for name in _FACTS},
            "metrics": self.fact("metrics"),
            "history": [
                {"state": e.state, "at": iso(e.at), "actor": e.actor, "reason": e.reason}
                for e in self.events
            ],
        }


def requests_of(events: Iterable[RetrainEvent]) -> list[Request]:
    """Return the requests in the order in which they were first heard of.

    An event that is there twice, as after a retry of its writer, counts once.
    """
    by_request: dict[str, dict[str, RetrainEvent]] = {}
    for event in events:
        by_request.setdefault(event.request_id, {}).setdefault(event.event_id, event)
    return [Request(tuple(found.values())) for found in by_request.values()]


def to_cancel(requests: list[Request], request_id: str | None) -> Request:
    """Return the request that can be cancelled: the given one, or the one in flight.

    Raises
    ------
    ConfigError
        If there is none, it has ended, or several are in flight and none is given.
    """
    if request_id is None:
        open_ones = [request for request in requests if request.is_in_flight]
        if len(open_ones) == 1:
            return open_ones[0]
        if not open_ones:
            raise ConfigError("no request is in flight: there is nothing to cancel")
        ids = ", ".join(request.request_id for request in open_ones)
        raise ConfigError(f"several requests are in flight; name one of {ids}")
    found = next((r for r in requests if r.request_id == request_id), None)
    if found is None:
        raise ConfigError(f"no request {request_id!r}; see 'penstock retrain ls'")
    if not found.is_in_flight:
        raise ConfigError(f"request {request_id!r} has ended: {found.last.state}")
    return found


def iso(at_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, to the second.

    Examples
    --------
    >>> iso(1_750_000_000_123)
    '2025-06-15T15:06:40Z'
    """
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int:
    """Return an ISO 8601 time, UTC unless it says otherwise, as milliseconds since the epoch.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_time("2025-06-15T15:06:40Z")
    1750000000000
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
