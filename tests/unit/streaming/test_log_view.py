"""Spans, and reads that need no broker."""

from __future__ import annotations

from penstock_streaming.log_view import LogView, Span
from penstock_streaming.settings import KafkaSettings


def test_span_has_its_first_offset_and_not_its_end() -> None:
    span = Span(3, 5)
    assert [offset in span for offset in (2, 3, 4, 5)] == [False, True, True, False]
    assert (span.offsets, Span(5, 3).offsets) == (2, 0)


def test_nothing_is_asked_for_nothing() -> None:
    view = LogView(KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_s=0.1))
    assert list(view.read({("t", 0): Span(3, 3)})) == []
    assert list(view.read_to_end([])) == []
    assert view.end_offsets([]) == {}
