"""Which slices a successor reads, and what a killed worker leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_streaming.poison import POISON_DEATHS, FlightJournal, Part, Range, Suspects

RECORD = """
import os, signal, sys
from pathlib import Path
from penstock_streaming.poison import FlightJournal, Range
journal = FlightJournal(Path(sys.argv[1]), "t")
journal.record([Range(0, 1, 900), Range(1, 2, 3, 2)])
journal.record([Range(0, 5, 9, 1)])
os.kill(os.getpid(), signal.SIGKILL)
"""


class Record:
    """What of a message counts here."""

    def __init__(self, partition: int, offset: int) -> None:
        self._place = partition, offset

    def partition(self) -> int:
        return self._place[0]

    def offset(self) -> int:
        return self._place[1]


def records(partition: int, first: int, last: int) -> list[Any]:
    return [Record(partition, offset) for offset in range(first, last + 1)]


def sizes(parts: list[Part]) -> list[tuple[int, int]]:
    return [(len(p.messages), p.deaths) for p in parts]


def test_without_suspects_a_batch_stays_whole() -> None:
    messages = records(0, 0, 9)
    (part,) = Suspects().parts(messages)
    assert part.messages is messages
    assert part.deaths == 0


def test_a_range_is_read_in_slices_and_its_neighbours_whole() -> None:
    suspects = Suspects()
    suspects.suspect([Range(0, 100, 163, deaths=1), Range(1, 7, 8, deaths=2)])
    parts = suspects.parts(records(0, 90, 170) + records(1, 5, 9))
    # 7 records of partition 0 and 2 of partition 1 lie between the suspects: one batch.
    assert sizes(parts) == [(10, 0), *[(2, 1)] * 32, (9, 0), (1, 2), (1, 2), (1, 0)]
    assert suspects.parts(records(0, 171, 180))[0].deaths == 0


def test_only_a_record_that_was_alone_is_poison() -> None:
    (message,) = records(0, 1, 1)
    assert Part([message], POISON_DEATHS).is_poison
    assert not Part([message], POISON_DEATHS - 1).is_poison
    assert not Part(records(0, 1, 2), POISON_DEATHS).is_poison


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 30), st.integers(1, 4))
    )
)
def test_parts_hold_every_message_once_and_in_order(
    ranges: list[tuple[int, int, int, int]],
) -> None:
    suspects = Suspects()
    suspects.suspect(Range(p, first, first + more, deaths) for p, first, more, deaths in ranges)
    messages = [m for p in range(3) for m in records(p, 0, 80)]
    parts = suspects.parts(messages)
    assert [m for part in parts for m in part.messages] == messages
    for part in parts:
        assert part.deaths < 2 or len(part.messages) == 1


def test_a_killed_worker_leaves_what_was_in_flight_to_one_successor(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", RECORD, str(tmp_path)], timeout=30, check=False)
    first, second = FlightJournal(tmp_path, "t"), FlightJournal(tmp_path / "other", "t")
    assert first.inherited() == [Range(0, 5, 9, deaths=2)]
    assert first.inherited() == []
    first.close()
    second.close()
    assert not list(tmp_path.glob("*.flight"))


@pytest.mark.parametrize("text", ["", "[[0, 1", "\n[[0,1,2,0]]\n"])
def test_a_journal_cut_short_accuses_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.999999999.flight").write_text(text)
    journal = FlightJournal(tmp_path, "t")
    assert journal.inherited() == []
    journal.close()


def test_another_topic_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "u.999999999.flight").write_text(json.dumps([[0, 1, 2, 0]]) + "\n")
    journal = FlightJournal(tmp_path, "t")
    assert journal.inherited() == []
    journal.close()
