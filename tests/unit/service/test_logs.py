from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from penstock_service.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_lines_are_json_with_the_service_and_bound_values(capsys) -> None:
    configure_logging("ingest", "info")
    structlog.get_logger("a.b").info("dead letter", topic="t", partition=1, offset=2**40)
    logging.getLogger("lib").warning("took %d ms", 7, extra={"event_id": "é"})
    ours, foreign = written(capsys)
    assert ours["event"] == "dead letter"
    assert (ours["service"], ours["logger"], ours["level"]) == ("ingest", "a.b", "info")
    assert (ours["topic"], ours["partition"], ours["offset"]) == ("t", 1, 2**40)
    assert str(ours["timestamp"]).endswith("Z")
    assert (foreign["event"], foreign["event_id"]) == ("took 7 ms", "é")
    assert foreign["service"] == "ingest"


def test_level_holds_for_both(capsys) -> None:
    configure_logging("ingest", "WARNING")
    structlog.get_logger("a").info("quiet")
    logging.getLogger("b").info("quiet")
    assert written(capsys) == []


def test_exception_and_odd_values_stay_on_one_line(capsys) -> None:
    configure_logging("x")
    try:
        raise ValueError("no\nluck")
    except ValueError:
        structlog.get_logger("a").exception("failed", folder=Path("/p"))
    (line,) = written(capsys)
    assert "ValueError: no\nluck" in str(line["exception"])
    assert "/p" in str(line["folder"])


def test_second_call_replaces_the_first(capsys) -> None:
    configure_logging("one")
    configure_logging("two")
    structlog.get_logger("a").info("once")
    (line,) = written(capsys)
    assert line["service"] == "two"


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("x", "loud")
