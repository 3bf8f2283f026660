"""Every invariant: its name, what it means, and the query that finds what breaks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock_ledger import dead_letter_queries, lifecycle_queries, queries


@dataclass(frozen=True, slots=True)
class Invariant:
    """A law of the log; the numbers are those of the reliability design.

    Parameters
    ----------
    meaning
        One line, for whoever reads the report.
    query
        SQL that returns (role, partition, offset, what is wrong) of each offender.
    needs
        A table without which it is not measured, with what would fill it; empty if it always is.
    """

    name: str
    meaning: str
    query: str
    needs: tuple[str, str] | None = None


ROUTING: Final = ("routing", "no routing state is in the log")

INVARIANTS: Final[tuple[Invariant, ...]] = (
    Invariant(
        "I1 no loss",
        "every event below the committed offsets has an outcome",
        queries.NO_LOSS,
    ),
    Invariant(
        "I2 no duplicate",
        "no event has two outcomes, over all output topics",
        queries.NO_DUPLICATE,
    ),
    Invariant(
        "I3 offset agreement",
        "outcomes reach from the first event to the committed offset, no hole, none beyond",
        queries.OFFSET_AGREEMENT,
    ),
    Invariant(
        "I4 order",
        "the outcomes of a key come in the order of its events",
        queries.ORDER,
    ),
    Invariant(
        "I4 partition of the source",
        "an outcome lies in the partition number of its event",
        queries.PLACEMENT,
    ),
    Invariant(
        "I5 atomicity",
        "nothing of an aborted or open transaction is ever visible, nothing visible vanishes",
        queries.ATOMICITY,
    ),
    Invariant(
        "I6 fencing",
        "after a takeover nothing of the replaced attempt follows in its partition",
        queries.FENCING,
    ),
    Invariant(
        "I7 dead letter bytes",
        "key, value, timestamp and headers of a dead letter are those of the record that failed",
        dead_letter_queries.DEAD_LETTER_BYTES,
    ),
    Invariant(
        "I7 dead letter headers",
        "a dead letter carries every header of the contract once, and they are true",
        dead_letter_queries.DEAD_LETTER_HEADERS,
    ),
    Invariant(
        "I7 dead letter class",
        "what was planted as bad is dead in its class, and nothing else is dead",
        dead_letter_queries.CLASSES,
        ("expected", "nobody said which events are bad"),
    ),
    Invariant(
        "I7 replays",
        "a copy has the bytes of its original, and goes on counting its attempts",
        dead_letter_queries.REPLAYS,
    ),
    Invariant(
        "I9 liveness",
        "every partition with work progresses within the time given after a fault",
        lifecycle_queries.LIVENESS,
        ("fault", "no fault was named"),
    ),
    Invariant(
        "I10 provenance",
        "a version answers only while a routing state gives it keys, or drains it",
        lifecycle_queries.PROVENANCE,
        ROUTING,
    ),
    Invariant(
        "I10 version switches",
        "an attempt follows the champions of the routing states in their order",
        lifecycle_queries.SWITCHES,
        ROUTING,
    ),
    Invariant(
        "I10 routing states",
        "revisions grow, weights sum to 100, the digest of a version never changes",
        lifecycle_queries.ROUTING,
        ROUTING,
    ),
    Invariant(
        "I14 accounting",
        "what the services counted is what the log holds",
        dead_letter_queries.ACCOUNTING,
        ("counter", "no counters were given"),
    ),
    Invariant(
        "tombstones are skips",
        "an event without a value has no outcome",
        queries.TOMBSTONES,
    ),
    Invariant(
        "outputs carry their event",
        "key, event id and features go unchanged from event to prediction",
        queries.CONTENT,
    ),
    Invariant(
        "outcomes are borne out",
        "a prediction has finite scores and the decision they give; one that expired has none",
        queries.ANSWERS,
    ),
    Invariant(
        "outputs are readable",
        "every output is Avro of a registered schema and names its event",
        queries.READABLE,
    ),
)
