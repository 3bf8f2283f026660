"""Rotation of logs that someone else keeps writing."""

from __future__ import annotations

from pathlib import Path

from penstock_stack.unit import rotate, tail


def test_a_writer_goes_on_after_rotation(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"first" * 10)
        assert rotate(log, max_bytes=20)
        writer.write(b"second")
    assert log.read_bytes() == b"second"
    assert (tmp_path / "kafka.log.1").read_bytes() == b"first" * 10


def test_old_logs_move_up_and_the_oldest_is_dropped(tmp_path: Path) -> None:
    log = tmp_path / "kafka.log"
    for text in ("a", "b", "c", "d"):
        log.write_text(text)
        assert rotate(log, max_bytes=0, keep=3)
    kept = {p.name: p.read_text() for p in tmp_path.iterdir()}
    assert kept == {"kafka.log": "", "kafka.log.1": "d", "kafka.log.2": "c", "kafka.log.3": "b"}


def test_small_and_absent_logs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("short")
    assert not rotate(tmp_path / "a.log")
    assert not rotate(tmp_path / "b.log")


def test_tail_skips_empty_lines_and_bad_bytes(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"one\n\ntwo\n\xff\nthree\n\n")
    assert tail(log, 2) == "�\nthree"
    assert tail(tmp_path / "none.log") == ""
