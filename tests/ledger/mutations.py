"""One planted violation each: the checker must name it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from changes import (
    Change,
    beyond,
    count,
    dead,
    edit,
    forget,
    header,
    hole,
    late_attempt,
    lose,
    move,
    past_end,
    plant,
    raw,
    repeat,
    seen_then_gone,
    show_aborted,
    show_open,
    show_unlogged,
    swap,
    tombstone,
    wrong_class,
)
from penstock_ledger.records import DEAD_LETTER_HEADERS
from synthetic import TOPICS


@dataclass(frozen=True)
class Mutation:
    """A violation and the invariant that must name it."""

    name: str
    invariant: str
    change: Change


_OTHER_TOPIC: Final = {"topic": "other.events.v1", "partition": 0, "offset": 1}
_NO_EVENT: Final = {"topic": TOPICS.events, "partition": 0, "offset": 1_000_000}

BYTES: Final = "I7 dead letter bytes"
HEADERS: Final = "I7 dead letter headers"
READABLE: Final = "outputs are readable"
CONTENT: Final = "outputs carry their event"

MUTATIONS: Final = [
    *(
        Mutation(f"lost {role}", "I1 no loss", lose(role))
        for role in ("features", "predictions", "events_dlq", "features_dlq")
    ),
    Mutation("hole", "I1 no loss", hole),
    *(
        Mutation(f"duplicated {role}", "I2 no duplicate", repeat(role, role))
        for role in ("features", "predictions", "events_dlq", "features_dlq")
    ),
    Mutation("predicted and dead", "I2 no duplicate", repeat("predictions", "features_dlq")),
    Mutation("feature and dead", "I2 no duplicate", repeat("features", "events_dlq")),
    Mutation("swapped predictions", "I4 order", swap("predictions")),
    Mutation("swapped features", "I4 order", swap("features")),
    Mutation("aborted visible", "I2 no duplicate", show_aborted),
    Mutation("visible, not logged", "I5 atomicity", show_unlogged),
    Mutation("seen, then gone", "I5 atomicity", seen_then_gone),
    Mutation("open visible", "I5 atomicity", show_open),
    Mutation("lost feature leaves prediction", "I3 offset agreement", lose("features")),
    Mutation("beyond committed, ingest", "I3 offset agreement", beyond("ingest")),
    Mutation("beyond committed, inference", "I3 offset agreement", beyond("inference")),
    Mutation("committed past the end", "I3 offset agreement", past_end),
    Mutation("no such event", "I3 offset agreement", edit("predictions", origin=_NO_EVENT)),
    Mutation("other partition", "I4 partition of the source", move("predictions")),
    Mutation("dead letter, other partition", "I4 partition of the source", move("features_dlq")),
    Mutation("late attempt", "I6 fencing", late_attempt),
    Mutation("dead key", BYTES, dead("events_dlq", lambda r: replace(r, key=b"x"))),
    Mutation("dead value", BYTES, dead("features_dlq", lambda r: replace(r, value=b""))),
    Mutation(
        "dead timestamp",
        BYTES,
        dead("events_dlq", lambda r: replace(r, timestamp_ms=r.timestamp_ms + 1)),
    ),
    Mutation("dead original header", BYTES, dead("events_dlq", header("x", "1"))),
    *(
        Mutation(f"absent {name}", HEADERS, dead("events_dlq", header(name, None)))
        for name in DEAD_LETTER_HEADERS
        if name not in ("dlq.schema_id", "dlq.model", "dlq.origin")
    ),
    *(
        Mutation(
            f"twice {name}",
            HEADERS,
            dead("features_dlq", header(name, "1", add=True)),
        )
        for name in DEAD_LETTER_HEADERS
        if name not in ("dlq.schema_id", "dlq.model")
    ),
    *(
        Mutation(f"wrong {name}", HEADERS, dead("features_dlq", header(name, text)))
        for name, text in {
            "__streams.errors.topic": TOPICS.events,
            "__streams.errors.partition": "7",
            "__streams.errors.offset": "999999",
            "dlq.service": "ingest",
            "dlq.stage": "somewhere",
            "dlq.class": "unlucky",
            "dlq.attempt": "0",
            "dlq.schema_id": "none",
        }.items()
    ),
    Mutation("no origin", READABLE, dead("events_dlq", header("dlq.origin", None))),
    Mutation("wrong class", "I7 dead letter class", wrong_class),
    Mutation("bad event predicted", "I7 dead letter class", plant),
    Mutation("good event dead", "I7 dead letter class", forget),
    Mutation("tombstone predicted", "tombstones are skips", tombstone),
    Mutation(
        "other key",
        CONTENT,
        dead("predictions", lambda r: replace(r, key=b"x")),
    ),
    Mutation("other event id", CONTENT, edit("predictions", event_id="x")),
    Mutation("other features", CONTENT, edit("predictions", features=[9.0])),
    Mutation("truncated", READABLE, raw("predictions", lambda v: v[:-3])),
    Mutation("trailing", READABLE, raw("features", lambda v: v + b"x")),
    Mutation("magic", READABLE, raw("predictions", lambda v: b"\x01" + v[1:])),
    Mutation("schema id", READABLE, raw("features", lambda v: v[:4] + b"\x63" + v[5:])),
    Mutation("origin null", READABLE, edit("predictions", origin=None)),
    Mutation("origin elsewhere", READABLE, edit("features", origin=_OTHER_TOPIC)),
    Mutation("uncounted skip", "I14 accounting", count("ingest", "skipped", -1)),
    Mutation("overcounted", "I14 accounting", count("inference", "predicted", 1)),
    Mutation("uncounted input", "I14 accounting", count("ingest", "consumed", -1)),
]
