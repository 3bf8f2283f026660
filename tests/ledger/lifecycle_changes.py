"""Changes that break progress, provenance or replays in one place."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from changes import Change, header
from penstock_ledger import RawRecord
from penstock_ledger.decoding import header_text
from penstock_ledger.records import DLQ_ATTEMPT, REPLAY_OF, Role
from penstock_schemas.records import ModelVersion, RoutingState
from synthetic_log import TOPICS, SyntheticLog, frame, unframe

HOUR_MS = 3_600_000


def stall(role: Role) -> Change:
    """Let a partition's outputs after the fault come an hour later."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        partition, ended_ms = rng.randrange(3), log.faults[0].ended_ms
        if role == "features":  # ingest was done before: let the fault have come first
            ended_ms = min(r.timestamp_ms for r in log.of("features", partition)) - 1
            log.faults = [replace(log.faults[0], ended_ms=ended_ms)]
        log.records[role] = [
            replace(r, timestamp_ms=r.timestamp_ms + HOUR_MS)
            if r.partition == partition and r.timestamp_ms > ended_ms
            else r
            for r in log.records[role]
        ]

    return change


def starve(log: SyntheticLog, rng: random.Random) -> None:
    """Let nothing of a partition come after the fault."""
    partition, ended_ms = rng.randrange(3), log.faults[0].ended_ms
    log.records["predictions"] = [
        r
        for r in log.records["predictions"]
        if r.partition != partition or r.timestamp_ms <= ended_ms
    ]


Choice = Callable[[dict[str, Any]], bool]


def answer(choice: Choice, **fields: Any) -> Change:
    """Set fields of the answer of one of those predictions that ``choice`` takes."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        found = [
            (index, value)
            for index, record in enumerate(log.records["predictions"])
            if choice(value := unframe("predictions", record.value))
        ]
        index, value = rng.choice(found)
        value = frame("predictions", value | fields)
        record = log.records["predictions"][index]
        log.records["predictions"][index] = replace(record, value=value)

    return change


def shift(choice: Choice, by_ms: int) -> Change:
    """Move the time of one answer."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        value = next(
            v
            for r in rng.sample(log.records["predictions"], len(log.records["predictions"]))
            if choice(v := unframe("predictions", r.value))
        )
        at = value["predicted_at"]
        moved = answer(lambda v: v["event_id"] == value["event_id"], predicted_at=_moved(at, by_ms))
        moved(log, rng)

    return change


def _moved(at: Any, by_ms: int) -> int:
    return round(at.timestamp() * 1000) + by_ms


def flap(log: SyntheticLog, rng: random.Random) -> None:
    """Let an attempt go back to the champion that it has left."""
    records = log.records["predictions"]
    values = [unframe("predictions", r.value) for r in records]
    new = [
        i
        for i in range(1, len(records))
        if values[i]["model_version"] == values[i - 1]["model_version"] == "2"
        and values[i]["variant"] == values[i - 1]["variant"] == "champion"
        and values[i]["attempt"] == values[i - 1]["attempt"]
        and records[i].partition == records[i - 1].partition
    ]
    index = rng.choice(new)
    value = frame("predictions", values[index] | {"model_version": "1"})
    records[index] = replace(records[index], value=value)


def reroute(index: int, how: Callable[[RoutingState], RoutingState]) -> Change:
    """Change a routing state."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        offset, state = log.routing[index]
        log.routing[index] = (offset, how(state))

    return change


def version(number: str, **fields: Any) -> Callable[[RoutingState], RoutingState]:
    """Set fields of a version of a routing state."""

    def how(state: RoutingState) -> RoutingState:
        def one(v: ModelVersion) -> ModelVersion:
            return replace(v, **fields) if v.version == number else v

        return replace(state, versions=tuple(map(one, state.versions)))

    return how


def other_file(log: SyntheticLog, rng: random.Random) -> None:
    log.digests["fraud", "1"] = "sha256:" + "0" * 64


def _copies(log: SyntheticLog) -> list[int]:
    return [
        index
        for index, event in enumerate(log.records["events"])
        if header_text(event.headers, REPLAY_OF) and event.value is not None
    ]


def copy(how: Callable[[RawRecord], RawRecord]) -> Change:
    """Change a copy in the events topic."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        index = rng.choice(_copies(log))
        log.records["events"][index] = how(log.records["events"][index])

    return change


def of_place(partition: int | None, offset: int, topic: str = TOPICS.events) -> Change:
    """Let a copy say it is one of another record; ``partition`` None is its own."""

    def how(record: RawRecord) -> RawRecord:
        where = record.partition if partition is None else partition
        return header(REPLAY_OF, f"{topic}/{where}/{offset}")(record)

    return copy(how)


def lose_copy(log: SyntheticLog, rng: random.Random) -> None:
    """Let a copy leave nothing."""
    copies = {
        (e.partition, e.offset) for e in (log.records["events"][index] for index in _copies(log))
    }
    found = [
        index
        for index, r in enumerate(log.records["features"])
        if (
            (place := unframe("features", r.value)["origin"])["partition"],
            place["offset"],
        )
        in copies
        and r.offset < log.inference[r.partition]
    ]
    record = log.records["features"].pop(rng.choice(found))
    origin = unframe("features", record.value)["origin"]
    text = f"{TOPICS.events}/{origin['partition']}/{origin['offset']}"
    log.records["predictions"] = [
        r for r in log.records["predictions"] if unframe("predictions", r.value)["origin"] != origin
    ]
    log.records["features_dlq"] = [
        r for r in log.records["features_dlq"] if header_text(r.headers, "dlq.origin") != text
    ]


def forget_attempts(log: SyntheticLog, rng: random.Random) -> None:
    """Let the dead letter of a copy begin to count anew."""
    found = [
        index
        for index, r in enumerate(log.records["events_dlq"])
        if header_text(r.headers, DLQ_ATTEMPT) == "2"
    ]
    index = rng.choice(found)
    record = log.records["events_dlq"][index]
    log.records["events_dlq"][index] = header(DLQ_ATTEMPT, "1")(record)
