"""One planted violation each: the checker must name it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

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
    zombie,
)
from lifecycle_changes import (
    HOUR_MS,
    Choice,
    answer,
    copy,
    flap,
    forget_attempts,
    lose_copy,
    of_place,
    other_file,
    reroute,
    shift,
    stall,
    starve,
    version,
)
from penstock_ledger.records import DEAD_LETTER_HEADERS, REPLAY_OF
from rollouts import Story, digest_of
from synthetic_log import TOPICS


@dataclass(frozen=True)
class Mutation:
    """A violation and the invariant that must name it; the story of the log it needs, if any."""

    name: str
    invariant: str
    change: Change
    story: Story | None = None


_OTHER_TOPIC: Final = {"topic": "other.events.v1", "partition": 0, "offset": 1}
_NO_EVENT: Final = {"topic": TOPICS.events, "partition": 0, "offset": 1_000_000}

BYTES: Final = "I7 dead letter bytes"
HEADERS: Final = "I7 dead letter headers"
READABLE: Final = "outputs are readable"
CONTENT: Final = "outputs carry their event"
TRUE: Final = "outcomes are borne out"
REPLAYS: Final = "I7 replays"
SOURCE: Final = "I10 provenance"
ROUTES: Final = "I10 routing states"


def _is(number: str) -> Choice:
    """Take predictions of a version."""
    return lambda value: value["model_version"] == number


def any_one(value: dict[str, Any]) -> bool:
    """Take every prediction."""
    return True


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
    Mutation("zombie", "I6 fencing", zombie),
    Mutation("no attempt", "I6 fencing", edit("predictions", attempt="")),
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
    Mutation("expired with scores", TRUE, edit("predictions", outcome="expired", scores=[0.5])),
    Mutation("predicted without scores", TRUE, edit("predictions", outcome="predicted", scores=[])),
    Mutation(
        "a score that is no number",
        TRUE,
        edit("predictions", outcome="predicted", scores=[float("nan")], decision=False),
    ),
    Mutation(
        "decision against the score",
        TRUE,
        edit("predictions", outcome="predicted", scores=[0.9], decision=False, threshold=0.5),
    ),
    Mutation(
        "expired and decided",
        TRUE,
        edit("predictions", outcome="expired", scores=[], decision=True),
    ),
    Mutation("truncated", READABLE, raw("predictions", lambda v: v[:-3])),
    Mutation("trailing", READABLE, raw("features", lambda v: v + b"x")),
    Mutation("magic", READABLE, raw("predictions", lambda v: b"\x01" + v[1:])),
    Mutation("schema id", READABLE, raw("features", lambda v: v[:4] + b"\x63" + v[5:])),
    Mutation("origin null", READABLE, edit("predictions", origin=None)),
    Mutation("origin elsewhere", READABLE, edit("features", origin=_OTHER_TOPIC)),
    Mutation("uncounted skip", "I14 accounting", count("ingest", "skipped", -1)),
    Mutation("overcounted", "I14 accounting", count("inference", "predicted", 1)),
    Mutation("expired and uncounted", "I14 accounting", count("inference", "expired", -1)),
    Mutation("uncounted input", "I14 accounting", count("ingest", "consumed", -1)),
    Mutation("copy lost", "I1 no loss", lose_copy),
    Mutation("copy of other bytes", REPLAYS, copy(lambda r: replace(r, value=b"x"))),
    Mutation("copy with another key", REPLAYS, copy(lambda r: replace(r, key=b"x"))),
    Mutation(
        "copy with another time",
        REPLAYS,
        copy(lambda r: replace(r, timestamp_ms=r.timestamp_ms + 1)),
    ),
    Mutation("copy of nothing", REPLAYS, of_place(None, 10_000)),
    Mutation("copy of another partition", REPLAYS, of_place(7, 0)),
    Mutation("copy of another topic", REPLAYS, of_place(None, 0, TOPICS.features)),
    Mutation("copy of no place", REPLAYS, copy(header(REPLAY_OF, "there"))),
    Mutation("copy forgets its attempts", REPLAYS, forget_attempts),
    Mutation("inference stalls", "I9 liveness", stall("predictions")),
    Mutation("ingest stalls", "I9 liveness", stall("features")),
    Mutation("inference does not come back", "I9 liveness", starve),
    Mutation("unknown version", SOURCE, answer(any_one, model_version="7"), "steady"),
    Mutation("unknown model", SOURCE, answer(any_one, model_name="other"), "promoted"),
    Mutation("champion as canary", SOURCE, answer(any_one, variant="canary"), "steady"),
    Mutation("shadow", SOURCE, answer(any_one, variant="shadow"), "rejected"),
    Mutation("canary before its time", SOURCE, shift(_is("2"), -HOUR_MS), "promoted"),
    Mutation("version after its time", SOURCE, shift(_is("1"), HOUR_MS), "promoted"),
    Mutation("canary after its end", SOURCE, shift(_is("2"), HOUR_MS), "rejected"),
    Mutation("nothing routed yet", SOURCE, shift(any_one, -HOUR_MS), "steady"),
    Mutation("b as champion", SOURCE, answer(_is("2"), variant="champion"), "a/b"),
    Mutation("shadow among the answers", SOURCE, answer(any_one, model_version="3"), "a/b"),
    Mutation("back to the old champion", "I10 version switches", flap, "promoted"),
    Mutation("wrong digest", ROUTES, reroute(1, version("1", digest=digest_of("9"))), "promoted"),
    Mutation("no digest", ROUTES, reroute(0, version("1", digest="sha256:")), "steady"),
    Mutation("other file", ROUTES, other_file, "steady"),
    Mutation("weights of 99", ROUTES, reroute(2, version("2", weight=49)), "promoted"),
    Mutation("two champions", ROUTES, reroute(1, version("2", alias="champion")), "rejected"),
    Mutation("revision again", ROUTES, reroute(2, lambda s: replace(s, revision=2)), "promoted"),
]
