from __future__ import annotations

from typing import Any

import pytest
from harness.replay import PlainRecord
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.dead_letters import Letter, LetterFilter, short_cause
from penstock_replay.headers import attempts_in, original_of, redrive_headers
from penstock_replay.offsets import RecordId, TimeBound
from penstock_replay.redrive import MAX_ATTEMPTS, Fate, Origins, judge
from penstock_schemas import headers as names
from penstock_schemas.errors import ModelRejected, RecordError, RuleViolation
from penstock_streaming.dead_letters import UNREADABLE_HEADERS, Failure, dead_letter
from penstock_streaming.log_view import Span

EVENTS, FEATURES = "p.events.v1", "p.features.v1"
SPANS = {(EVENTS, 0): Span(5, 1000)}
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["trace", "a", "penstock.replay.of", "dlq.class", "dlq.attempt"]),
        st.none() | st.binary(max_size=8),
    ),
    max_size=6,
)


def fail(record: Any, error: RecordError, origin: str | None = None) -> PlainRecord:
    """Return the dead letter of a record, as the loop writes it."""
    letter = dead_letter(record, Failure(error, "service", origin, 1_700_000_000_000))
    topic = f"{record.topic()}.dlq"
    return PlainRecord(
        (topic, letter.partition, 0), letter.key, letter.value, letter.timestamp_ms, letter.headers
    )


def origins(**attempts: int) -> Origins:
    known = {RecordId(EVENTS, 0, int(name[1:])): n for name, n in attempts.items()}
    return Origins({EVENTS}, SPANS, known)


@given(HEADERS)
def test_a_record_that_always_fails_in_ingest_is_tried_a_bounded_number_of_times(
    headers: list[tuple[str, bytes | None]],
) -> None:
    kept = [h for h in headers if h[0] not in ("dlq.attempt", "dlq.class", "penstock.replay.of")]
    event = PlainRecord((EVENTS, 0, 10), b"k", b"v", 5, headers)
    start = attempts_in(headers)
    for replays in range(20):
        letter = Letter.read(fail(event, RuleViolation("no")))
        verdict = judge(letter, origins())
        assert verdict.attempts == start + replays + 1
        if verdict.fate is Fate.PARK:
            break
        assert letter.origin is not None
        again = redrive_headers(letter.headers, letter.origin, verdict.attempts)
        assert original_of(again) == RecordId(EVENTS, 0, event.offset())
        # The producer's own headers are as they were, and a loop adds none.
        assert [h for h in again if h[0] not in ("dlq.attempt", "penstock.replay.of")] == kept
        assert len(again) == len(kept) + 2
        event = PlainRecord((EVENTS, 0, event.offset() + 1), b"k", b"v", 5, again)
    else:
        pytest.fail("it goes round for ever")
    assert verdict.attempts > MAX_ATTEMPTS


def test_a_parked_record_that_somebody_asks_for_is_tried_however_often_it_has_failed() -> None:
    event = PlainRecord((EVENTS, 0, 10), b"k", b"v", 5, [("dlq.attempt", b"7")])
    letter = Letter.read(fail(event, RuleViolation("no")))
    assert judge(letter, origins()).fate is Fate.PARK
    verdict = judge(letter, origins(), once_more=True)
    assert (verdict.fate, verdict.attempts) == (Fate.REPLAY, 8)


def test_a_letter_whose_value_was_too_large_to_keep_is_no_tombstone() -> None:
    kept = fail(PlainRecord((EVENTS, 0, 10), b"k", b"v", 5, []), RuleViolation("no"))
    place = (kept.topic(), kept.partition(), kept.offset())
    left_out = PlainRecord(place, kept.key(), None, 5, kept.headers())
    assert judge(Letter.read(kept), origins()).fate is Fate.REPLAY
    for once_more in (False, True):
        verdict = judge(Letter.read(left_out), origins(), once_more=once_more)
        assert (verdict.fate, "too large" in verdict.reason) == (Fate.REFUSE, True)


def test_a_record_that_always_fails_in_inference_is_parked_at_the_fourth_time() -> None:
    fates = []
    attempts = 0
    for _ in range(4):
        vector = PlainRecord((FEATURES, 0, 3))  # a service's output has no headers
        letter = Letter.read(fail(vector, ModelRejected("no"), f"{EVENTS}/0/10"))
        verdict = judge(letter, origins(_10=attempts))
        fates.append(verdict.fate)
        attempts = verdict.attempts
    assert fates == [Fate.REPLAY, Fate.REPLAY, Fate.REPLAY, Fate.PARK]


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        (f"{EVENTS}/0/4", "retention has passed"),
        (f"{EVENTS}/0/1000", "not in the log"),
        (f"{EVENTS}/7/10", "not in the log"),
        (f"{FEATURES}/0/10", "written by services"),
        ("nonsense", "no readable dlq.origin"),
        (f"{EVENTS}/0/11", "cannot be read"),
    ],
)
def test_what_cannot_be_traced_is_refused(origin: str, reason: str) -> None:
    letter = Letter.read(fail(PlainRecord((FEATURES, 0, 3)), ModelRejected("no"), origin))
    verdict = judge(letter, origins(_10=0))
    assert verdict.fate is Fate.REFUSE
    assert reason in verdict.reason


def test_a_letter_that_lost_its_headers_is_refused() -> None:
    record = PlainRecord((EVENTS, 0, 10))
    letter = Letter.read(fail(record, RuleViolation("no" + UNREADABLE_HEADERS)))
    assert judge(letter, origins()).fate is Fate.REFUSE


@given(HEADERS)
def test_any_headers_are_a_letter(headers: list[tuple[str, bytes | None]]) -> None:
    letter = Letter.read(PlainRecord(("p.events.v1.dlq", 0, 1), a_header=headers))
    assert judge(letter, origins()).attempts >= 1


def test_a_filter_takes_class_place_and_time_of_failure() -> None:
    record = fail(PlainRecord((EVENTS, 0, 10)), RuleViolation("no"))
    letter = Letter.read(record)
    assert letter.failed_at_ms == 1_700_000_000_000
    at = letter.failed_at_ms
    for wanted, taken in (
        (LetterFilter(), True),
        (LetterFilter(classes=frozenset({"rule"})), True),
        (LetterFilter(classes=frozenset({"model"})), False),
        (LetterFilter(since=TimeBound(at)), True),
        (LetterFilter(since=TimeBound(at + 1)), False),
        (LetterFilter(until=TimeBound(at)), False),
        (LetterFilter(until=TimeBound(at + 1)), True),
        (LetterFilter(ids=frozenset({letter.record_id})), True),
        (LetterFilter(ids=frozenset({RecordId(EVENTS, 0, 10)})), False),
    ):
        assert wanted.takes(letter) is taken
    blank = Letter.read(PlainRecord(("x.dlq", 0, 0), a_header=[(names.DLQ_CLASS, b"\xff")]))
    assert not LetterFilter(since=TimeBound(0)).takes(blank)


def test_causes_that_differ_in_numbers_are_one() -> None:
    causes = {short_cause(f"Rule: amount {n} over 10") for n in range(50)}
    assert causes == {"Rule: amount # over #"}
