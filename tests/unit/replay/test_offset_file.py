from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_replay.offset_file import format_offsets, parse_offsets

TOPICS = st.text("abcXYZ019._-", min_size=1, max_size=20)
OFFSETS = st.dictionaries(
    st.tuples(TOPICS, st.integers(0, 10_000)), st.integers(0, 2**63 - 1), min_size=1
)


@given(OFFSETS)
def test_a_file_is_read_as_it_was_written(offsets: dict[tuple[str, int], int]) -> None:
    assert parse_offsets(format_offsets(offsets)) == offsets


@given(OFFSETS, st.sampled_from(["", "# words", "   ", "\t# 1 2 3"]))
def test_blank_lines_and_comments_do_not_count(
    offsets: dict[tuple[str, int], int], line: str
) -> None:
    lines = format_offsets(offsets).splitlines()
    text = "\r\n".join(part for pair in lines for part in (line, f" {pair}  # so"))
    assert parse_offsets(text) == offsets


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got none"),
        ("# only words\n", "got none"),
        ("t 0\n", "line 1"),
        ("t 0 1\nt 0 x\n", "line 2"),
        ("t 0 1\n\nt 0 2\n", "line 3: t 0 is there twice"),
        ("t -1 5\n", "line 1"),
        ("t 0 1 extra\n", "line 1"),
        (f"t 0 {2**63}\n", "line 1"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_offsets(text)


@given(st.text())
def test_any_text_is_offsets_or_an_error(text: str) -> None:
    try:
        assert parse_offsets(text)
    except ValueError:
        pass
