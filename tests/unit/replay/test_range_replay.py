from __future__ import annotations

from collections import Counter

from harness.replay import PlainRecord
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.headers import copy_headers
from penstock_replay.offsets import OffsetSet, RecordId
from penstock_replay.range_replay import Pick, Selection, operation_id, spans_of
from penstock_streaming.log_view import Span

KEYS = [None, b"a", b"b", b"c"]


@st.composite
def logs(draw: st.DrawFn) -> list[PlainRecord]:
    """One partition with events and copies of earlier records, copies of copies among them."""
    log: list[PlainRecord] = []
    for offset in range(draw(st.integers(1, 30))):
        original = draw(st.none() | st.integers(0, offset - 1)) if offset else None
        if original is None:
            key, at_ms = draw(st.sampled_from(KEYS)), draw(st.integers(0, 100))
            log.append(PlainRecord(("t", 0, offset), key, b"%d" % offset, at_ms))
        else:
            of = log[original]
            headers = copy_headers(of.headers(), RecordId("t", 0, original))
            log.append(PlainRecord(("t", 0, offset), of.key(), of.value(), of.at_ms, headers))
    return log


SPANS = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda s: Span(min(s), max(s)))
BOUNDS = st.none() | st.integers(0, 100)


@given(logs(), SPANS, BOUNDS, BOUNDS, st.frozensets(st.sampled_from([b"a", b"b"])))
def test_every_event_that_is_meant_is_taken_exactly_once(
    log: list[PlainRecord],
    span: Span,
    since_ms: int | None,
    until_ms: int | None,
    keys: frozenset[bytes],
) -> None:
    selection = Selection("t", "id", {0: span}, since_ms, until_ms, keys)
    inside = [r for r in log if r.offset() in span]
    taken = Counter(r.value() for r in inside if selection.pick(r) is Pick.SELECTED)
    meant = {
        r.value()
        for r in inside
        if (since_ms is None or r.at_ms >= since_ms)
        and (until_ms is None or r.at_ms < until_ms)
        and (not keys or r.key() in keys)
    }
    assert set(taken) == meant
    if span.first == 0:  # then the original of every copy is inside too
        assert set(taken.values()) <= {1}


@given(SPANS, st.integers(0, 40))
def test_what_was_read_is_not_read_again(span: Span, read: int) -> None:
    selection = Selection("t", "id", {0: span})
    done = OffsetSet()
    if read and span.offsets:
        done.add(span.first, min(span.end, span.first + read) - 1)
    rest = selection.rest({selection.mark(0): done}).get(0, Span(0, 0))
    assert len(done) + rest.offsets == span.offsets
    assert all(offset not in done for offset in range(rest.first, rest.end))


@given(st.dictionaries(st.integers(0, 5), SPANS))
def test_spans_come_back_from_the_audit(spans: dict[int, Span]) -> None:
    selection = Selection("a.topic-1", "id/with@signs+", spans)
    other = Selection("a.topic-1", "other", {9: Span(0, 5)})
    found = spans_of({**selection.ranges, **other.ranges}, "a.topic-1", "id/with@signs+")
    assert found == {p: span for p, span in spans.items() if span.offsets}


def test_a_copy_of_another_topics_record_is_a_record_of_its_own() -> None:
    record = PlainRecord(a_header=copy_headers([], RecordId("other", 0, 0)))
    assert Selection("t", "id", {0: Span(0, 5)}).pick(record) is Pick.SELECTED


def test_the_same_words_are_the_same_replay() -> None:
    words = {"from": "start", "to": "end"}
    assert operation_id("x", words) == operation_id("x", dict(reversed(words.items())))
    assert operation_id("x", words) != operation_id("y", words)
    assert operation_id("x", words) != operation_id("x", {**words, "keys": "a"})
