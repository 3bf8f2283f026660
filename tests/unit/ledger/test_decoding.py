"""Headers and places as the ledger reads them."""

from __future__ import annotations

import pytest
from penstock_ledger.decoding import (
    Replay,
    Unreadable,
    dead_letter_origin,
    parse_origin,
    replay_of,
)
from penstock_ledger.records import REPLAY_OF, digest, original_headers
from synthetic_log import TOPICS


@pytest.mark.parametrize(
    "text", [None, "", "17", "t/1", "t/-1/2", "t/1/x", "t/٣/4", "t/1/9999999999999999999"]
)
def test_what_is_no_place_is_none(text: str | None) -> None:
    assert parse_origin(text) is None


def test_a_topic_may_have_slashes_no_offset_has() -> None:
    assert parse_origin("a/b/1/2") == ("a/b", 1, 2)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (None, "names no origin"),
        ((("dlq.origin", None),), "names no origin"),
        ((("dlq.origin", b"\xff"),), "names no origin"),
        ((("dlq.origin", b"other.events.v1/0/1"),), "origin in topic other.events.v1"),
    ],
)
def test_a_dead_letter_of_nothing_is_unreadable(headers: object, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        dead_letter_origin(headers, TOPICS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        (None, None),
        ((("x", b"1"),), None),
        (((REPLAY_OF, b"t/1/2"),), Replay(("t", 1, 2), None)),
        (((REPLAY_OF, b"t/1/2"), ("dlq.attempt", b"2")), Replay(("t", 1, 2), 2)),
        (((REPLAY_OF, b"t/1/2"), ("dlq.attempt", b"two")), Replay(("t", 1, 2), None)),
        (((REPLAY_OF, None),), Replay(None, None)),
    ],
)
def test_a_copy_says_what_it_is_a_copy_of(headers: object, expected: Replay | None) -> None:
    assert replay_of(headers) == expected  # type: ignore[arg-type]


def test_null_and_empty_differ() -> None:
    assert digest(None) is None
    assert digest(b"") != digest(None)
    assert original_headers(()) == ""
    assert original_headers(None) is None
    assert original_headers((("a", None),)) != original_headers((("a", b""),))
