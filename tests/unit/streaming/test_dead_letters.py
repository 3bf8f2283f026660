"""A dead letter keeps the record and says why it failed; the breaker counts what is in the log."""

from __future__ import annotations

import numpy as np
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st
from penstock_schemas import headers
from penstock_schemas.errors import DecodeError, SchemaError
from penstock_streaming.dead_letters import (
    DEAD_LETTER_MAX_BYTES,
    MESSAGE_MAX_CHARS,
    WINDOW_ROWS,
    BreakerLimits,
    DeadLetter,
    DeadLetterBreaker,
    Failure,
    Trip,
    dead_letter,
)

NOW_MS = 1_700_000_000_123
NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
)
HEADERS = st.lists(st.tuples(NAME, st.none() | st.binary(max_size=8)), max_size=6)


def letter_of(message: Message, **facts: object) -> DeadLetter:
    failure = {"error": DecodeError("bad"), "service": "s", "origin": None, "now_ms": NOW_MS}
    return dead_letter(message, Failure(**{**failure, **facts}))  # type: ignore[arg-type]


def message(**facts: object) -> Message:
    base = {"topic": "t", "partition": 2, "offset": 7, "key": b"k", "value": b"v"}
    return Message(**{**base, "timestamp": (1, 5), **facts})  # type: ignore[arg-type]


@given(HEADERS, st.none() | st.binary(max_size=20), st.none() | st.binary(max_size=20))
def test_key_value_and_original_headers_are_untouched(
    original: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None
) -> None:
    letter = letter_of(message(key=key, value=value, headers=original))
    assert (letter.key, letter.value) == (key, value)
    assert (letter.partition, letter.timestamp_ms) == (2, 5)
    kept = [h for h in letter.headers if h[0] not in headers.DEAD_LETTER_HEADERS]
    assert kept == [h for h in original if h[0] not in headers.DEAD_LETTER_HEADERS]


def test_all_headers_of_the_contract_are_there_as_text() -> None:
    facts = dict(letter_of(message(value=b"\0\0\0\0\x07xyz")).headers)
    assert set(facts) == headers.DEAD_LETTER_HEADERS
    assert facts[headers.ERROR_EXCEPTION] == b"DecodeError"
    assert facts[headers.ERROR_MESSAGE] == b"bad"
    assert facts[headers.ERROR_TOPIC] == b"t"
    assert facts[headers.ERROR_PARTITION] == b"2"
    assert facts[headers.ERROR_OFFSET] == b"7"
    assert facts[headers.DLQ_CLASS] == b"decode"
    assert facts[headers.DLQ_STAGE] == b"decode"
    assert facts[headers.DLQ_ORIGIN] == b"t/2/7"
    assert facts[headers.DLQ_ATTEMPT] == b"1"
    assert facts[headers.DLQ_SCHEMA_ID] == b"7"
    assert facts[headers.DLQ_FIRST_FAILED_AT] == b"2023-11-14T22:13:20.123Z"


def test_a_second_pass_replaces_counts_up_and_keeps_the_first_time() -> None:
    first = letter_of(message(headers=[("a", b"1"), ("a", None)]))
    second = letter_of(
        message(headers=first.headers, topic="t.dlq", offset=0),
        error=SchemaError("worse"),
        now_ms=NOW_MS + 99_000,
        origin="events/2/7",
    )
    assert len(second.headers) == len(first.headers)
    facts = dict(second.headers)
    assert facts[headers.DLQ_ATTEMPT] == b"2"
    assert facts[headers.DLQ_FIRST_FAILED_AT] == dict(first.headers)[headers.DLQ_FIRST_FAILED_AT]
    assert facts[headers.DLQ_CLASS] == b"schema"
    assert facts[headers.DLQ_ORIGIN] == b"events/2/7"


def test_a_spoilt_attempt_counts_as_none() -> None:
    for spoilt in (b"", b"x", b"\xff", b"-3", b"9" * 40, "²".encode(), None):
        facts = dict(letter_of(message(headers=[(headers.DLQ_ATTEMPT, spoilt)])).headers)
        assert facts[headers.DLQ_ATTEMPT] == b"1"


def test_a_long_message_is_cut() -> None:
    facts = dict(letter_of(message(), error=DecodeError("x" * 9_999)).headers)
    assert len(facts[headers.ERROR_MESSAGE] or b"") == MESSAGE_MAX_CHARS


def test_a_record_without_value_has_no_schema_id() -> None:
    assert dict(letter_of(message(value=None)).headers)[headers.DLQ_SCHEMA_ID] == b""


class Unreadable:
    """A message with a header name that is not UTF-8, as the client shows it."""

    def __init__(self) -> None:
        self._real = message()

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def headers(self) -> None:
        raise SystemError("returned a result with an exception set")


def test_headers_that_the_client_cannot_read_do_not_stop_the_dead_letter() -> None:
    letter = letter_of(Unreadable())  # type: ignore[arg-type]
    facts = dict(letter.headers)
    assert letter.value == b"v"
    assert (facts[headers.ERROR_MESSAGE] or b"").endswith(b"left out)")
    assert set(facts) == headers.DEAD_LETTER_HEADERS


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        ({"value": b"x" * DEAD_LETTER_MAX_BYTES}, (b"k", 1)),
        ({"value": b"x", "headers": [("a", b"x" * DEAD_LETTER_MAX_BYTES)]}, (None, 0)),
        ({"value": b"x", "key": b"x" * DEAD_LETTER_MAX_BYTES}, (None, 0)),
    ],
    ids=["value", "headers", "key"],
)
def test_a_record_that_no_topic_takes_leaves_a_letter_without_it(facts, kept) -> None:
    letter = letter_of(message(**{"headers": [("a", b"1")], **facts}))
    assert letter.value is None
    own = [h for h in letter.headers if h[0] not in headers.DEAD_LETTER_HEADERS]
    assert (letter.key, len(own)) == kept
    why = dict(letter.headers)[headers.ERROR_MESSAGE] or b""
    assert b"value of %d bytes left out" % len(facts["value"]) in why


def test_the_largest_letter_is_whole() -> None:
    value = b"x" * (DEAD_LETTER_MAX_BYTES - 1)
    assert letter_of(message(value=value)).value == value


LIMITS = BreakerLimits(share=0.2, in_row=50)


def rows(count: int, partition: int = 0) -> np.ndarray:
    """Return the partitions of a batch of one partition."""
    return np.full(count, partition, np.int32)


def test_as_many_in_a_row_as_allowed_pass_and_one_more_trips() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.count_batch(rows(50), range(50)) is None
    assert breaker.count_batch(rows(1), [0]) == Trip(0, 0, "in_row", 51)


def test_a_good_record_ends_a_row() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.count_batch(rows(50), range(50)) is None
    assert breaker.count_batch(rows(51), range(1, 51)) is None


def test_a_fifth_of_the_last_records_passes_and_one_more_trips() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.count_batch(rows(5 * WINDOW_ROWS), range(0, 5 * WINDOW_ROWS, 5)) is None
    trip = breaker.count_batch(rows(2), [1])  # one early: the oldest of the window is still in it
    assert trip is None
    assert breaker.count_batch(rows(1), [0]) == Trip(0, 0, "share", 201)


def test_a_burst_inside_a_large_batch_is_seen() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    burst = [row for row in range(1_000, 1_500) if row % 2]
    trip = breaker.count_batch(rows(10_000), burst)
    assert trip is not None
    assert (trip.kind, trip.row) == ("share", burst[200])


def test_few_records_are_no_share() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.count_batch(rows(400), range(0, 400, 2)) is None


def test_partitions_are_counted_apart() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    both = np.tile(np.array([0, 1], np.int32), 60)
    dead = [row for row in range(120) if row % 2]  # all of partition 1
    trip = breaker.count_batch(both, dead)
    assert trip == Trip(1, 101, "in_row", 51)
    assert set(breaker.tripped) == {1}


def test_of_two_partitions_the_first_that_trips_is_told() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    batch = np.concatenate([rows(60, 1), rows(60, 0)])
    trip = breaker.count_batch(batch, range(120))
    assert trip is not None
    assert (trip.partition, trip.row) == (1, 50)


def test_what_was_rolled_back_does_not_count_and_what_was_committed_does() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    breaker.count_batch(rows(30), range(30))
    breaker.commit()
    for _ in range(5):  # the same transaction, aborted again and again
        assert breaker.count_batch(rows(20), range(20)) is None
        breaker.roll_back()
    assert breaker.count_batch(rows(20), range(20)) is None
    breaker.commit()
    assert breaker.count_batch(rows(1), [0]) == Trip(0, 0, "in_row", 51)


def test_a_partition_that_comes_back_begins_anew() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    assert breaker.count_batch(rows(60), range(60)) is not None
    breaker.forget_partitions([0])
    assert not breaker.tripped
    assert breaker.count_batch(rows(50), range(50)) is None


def test_a_limit_of_zero_is_off() -> None:
    breaker = DeadLetterBreaker(BreakerLimits(share=0.0, in_row=0))
    assert breaker.count_batch(rows(5_000), range(5_000)) is None


def test_only_a_raised_limit_opens_what_it_closed() -> None:
    for limits, opens in [
        (BreakerLimits(0.2, 80), True),
        (BreakerLimits(0.2, 0), True),
        (BreakerLimits(0.9, 50), False),
        (BreakerLimits(0.2, 10), False),
    ]:
        breaker = DeadLetterBreaker(LIMITS)
        breaker.count_batch(rows(60), range(60))
        breaker.roll_back()
        assert (breaker.tune(limits) == {0}) is opens, limits
        assert (not breaker.tripped) is opens


def test_a_raised_limit_is_the_one_judged_by() -> None:
    breaker = DeadLetterBreaker(LIMITS)
    breaker.count_batch(rows(60), range(60))
    breaker.roll_back()
    breaker.tune(BreakerLimits(0.2, 60))
    assert breaker.count_batch(rows(60), range(60)) is None
    assert breaker.count_batch(rows(1), [0]) is not None
