"""Changes that break a clean log in one place."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from penstock_ledger.records import RawRecord, Role
from synthetic_log import TOPICS, SyntheticLog, frame, unframe

Change = Callable[[SyntheticLog, random.Random], None]


def _done(log: SyntheticLog, role: Role) -> list[int]:
    """Return the indexes of a role's records, dead letters of every kind included."""
    found = list(range(len(log.records[role])))
    assert found, f"seed {log.seed} has no {role}"
    return found


def lose(role: Role) -> Change:
    def change(log: SyntheticLog, rng: random.Random) -> None:
        del log.records[role][rng.choice(_done(log, role))]

    return change


def hole(log: SyntheticLog, rng: random.Random) -> None:
    partition = rng.randrange(3)
    lost = [r for r in log.records["predictions"] if r.partition == partition][4:7]
    log.records["predictions"] = [r for r in log.records["predictions"] if r not in lost]


def repeat(source: Role, target: Role) -> Change:
    """Append a record that says it comes from the same event as another."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        record = log.records[source][rng.choice(_done(log, source))]
        if target != source:
            like = log.records[target][rng.choice(_done(log, target))]
            record = _with_origin_of(log, source, record, like)
        offset = log.next_offset(target, record.partition)
        log.records[target].append(replace(record, offset=offset))

    return change


def _with_origin_of(log: SyntheticLog, role: Role, record: RawRecord, like: RawRecord) -> RawRecord:
    assert record.value is not None
    place = unframe(role, record.value)["origin"]
    origin = f"{TOPICS.events}/{place['partition']}/{place['offset']}".encode()
    headers = tuple((n, origin if n == "dlq.origin" else v) for n, v in like.headers)
    return replace(record, headers=headers)


def swap(role: Role) -> Change:
    """Exchange the contents of two neighbours of one key."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        records = log.records[role]
        pairs = [
            (i, j)
            for i, a in enumerate(records)
            for j, b in enumerate(records[i + 1 :], i + 1)
            if a.partition == b.partition and a.key == b.key
        ]
        i, j = rng.choice(pairs)
        a, b = records[i], records[j]
        records[i], records[j] = replace(b, offset=a.offset), replace(a, offset=b.offset)

    return change


def show_aborted(log: SyntheticLog, rng: random.Random) -> None:
    role, record = log.aborted.pop(rng.randrange(len(log.aborted)))
    log.records[role].append(record)


def show_unlogged(log: SyntheticLog, rng: random.Random) -> None:
    record = log.records["predictions"].pop(rng.choice(_done(log, "predictions")))
    log.unseen.append(("predictions", record))


def seen_then_gone(log: SyntheticLog, rng: random.Random) -> None:
    log.live.append(rng.choice(log.aborted))


def show_open(log: SyntheticLog, rng: random.Random) -> None:
    record = rng.choice(log.records["features"])
    log.stable["features", record.partition] = record.offset


def beyond(service: str) -> Change:
    """Commit less than what has outcomes."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        role: Role = "features" if service == "ingest" else "predictions"
        record = rng.choice(log.records[role])
        assert record.value is not None
        origin = unframe(role, record.value)["origin"]
        if service == "ingest":
            log.ingest[origin["partition"]] = origin["offset"]
            return
        for f in log.records["features"]:
            assert f.value is not None
            if unframe("features", f.value)["origin"] == origin:
                log.inference[f.partition] = f.offset

    return change


def past_end(log: SyntheticLog, rng: random.Random) -> None:
    partition = rng.randrange(3)
    log.inference[partition] = log.end["features", partition] + 1


def move(role: Role) -> Change:
    def change(log: SyntheticLog, rng: random.Random) -> None:
        record = log.records[role].pop(rng.choice(_done(log, role)))
        partition = (record.partition + 1) % 3
        offset = log.next_offset(role, partition)
        log.records[role].append(replace(record, partition=partition, offset=offset))

    return change


def edit(role: Role, **fields: Any) -> Change:
    """Set fields of the Avro value of one record."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        index = rng.choice(_done(log, role))
        record = log.records[role][index]
        assert record.value is not None
        value = unframe(role, record.value) | fields
        log.records[role][index] = replace(record, value=frame(role, value))

    return change


def late_attempt(log: SyntheticLog, rng: random.Random) -> None:
    """Give a record amid those of an attempt to another one that had been replaced."""
    records = log.records["predictions"]
    attempts = [unframe("predictions", r.value)["attempt"] for r in records]
    late = [
        (i, attempts[j])
        for j in range(len(records))
        for i in range(j + 2, len(records))
        if records[i].partition == records[j].partition
        and attempts[i] == attempts[i - 1] != attempts[j]
        and (records[i - 1].partition, records[i - 1].offset + 1)
        == (records[i].partition, records[i].offset)
    ]
    i, old = rng.choice(late)
    value = unframe("predictions", records[i].value) | {"attempt": old}
    records[i] = replace(records[i], value=frame("predictions", value))


def zombie(log: SyntheticLog, rng: random.Random) -> None:
    """Let a replaced attempt write once more what its successor has written."""
    partitions = [log.of("predictions", partition) for partition in range(3)]
    found = [
        (records, index, attempt)
        for records in partitions
        for attempts in [[unframe("predictions", r.value)["attempt"] for r in records]]
        for index, successor in enumerate(attempts)
        for attempt in attempts[:index]
        if attempt not in (successor, attempts[-1])
    ]
    records, done, old = rng.choice(found)
    value = unframe("predictions", records[done].value) | {"attempt": old}
    offset = log.next_offset("predictions", records[done].partition) + 1
    log.end["predictions", records[done].partition] = offset + 1
    late = replace(records[done], offset=offset, value=frame("predictions", value))
    log.records["predictions"].append(late)


def raw(role: Role, how: Callable[[bytes], bytes]) -> Change:
    """Damage the bytes of one output."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        index = rng.choice(_done(log, role))
        record = log.records[role][index]
        log.records[role][index] = replace(record, value=how(record.value))

    return change


def dead(role: Role, how: Callable[[RawRecord], RawRecord]) -> Change:
    """Change one dead letter."""

    def change(log: SyntheticLog, rng: random.Random) -> None:
        index = rng.choice(_done(log, role))
        log.records[role][index] = how(log.records[role][index])

    return change


def header(name: str, text: str | None, *, add: bool = False) -> Callable[[RawRecord], RawRecord]:
    """Replace, drop (None) or repeat a header."""

    def how(record: RawRecord) -> RawRecord:
        kept = record.headers if add else tuple(h for h in record.headers if h[0] != name)
        more = () if text is None else ((name, text.encode()),)
        return replace(record, headers=kept + more)

    return how


def wrong_class(log: SyntheticLog, rng: random.Random) -> None:
    index = rng.choice(_done(log, "events_dlq"))
    record = log.records["events_dlq"][index]
    old = dict(record.headers)["dlq.class"]
    other = next(c for c in ("decode", "schema") if c.encode() != old)
    log.records["events_dlq"][index] = header("dlq.class", other)(record)


def plant(log: SyntheticLog, rng: random.Random) -> None:
    """Expect a dead letter of an event that was predicted."""
    value = unframe("predictions", rng.choice(log.records["predictions"]).value)
    log.expected[value["origin"]["partition"], value["origin"]["offset"]] = "rule"


def forget(log: SyntheticLog, rng: random.Random) -> None:
    """Expect nothing of an event that became a dead letter."""
    origin = dict(rng.choice(log.records["events_dlq"]).headers)["dlq.origin"] or b""
    _, partition, offset = origin.decode().rsplit("/", 2)
    del log.expected[int(partition), int(offset)]


def tombstone(log: SyntheticLog, rng: random.Random) -> None:
    """Make a tombstone of an event that has an outcome."""
    value = unframe("predictions", rng.choice(log.records["predictions"]).value)
    for index, event in enumerate(log.records["events"]):
        if (event.partition, event.offset) == (
            value["origin"]["partition"],
            value["origin"]["offset"],
        ):
            log.records["events"][index] = replace(event, value=None)


def count(service: str, outcome: str, by: int) -> Change:
    def change(log: SyntheticLog, rng: random.Random) -> None:
        log.counters[service, outcome] += by

    return change
