"""A fail point is one named place and one visit."""

from __future__ import annotations

import re
from pathlib import Path

import penstock_streaming
import pytest
from penstock_schemas.errors import ConfigError
from penstock_streaming import fail_points
from penstock_streaming.fail_points import FAIL_POINTS, VARIABLE, FailPoints


def test_unset_means_none() -> None:
    assert FailPoints.from_environment({}).armed is None


def test_every_place_is_in_the_code_and_every_one_in_the_code_is_known() -> None:
    files = Path(penstock_streaming.__file__).parent.glob("*.py")
    used = re.findall(r'\.(?:reach|during)\("(\w+)"\)', "".join(f.read_text() for f in files))
    assert set(used) == set(FAIL_POINTS)


@pytest.mark.parametrize("text", ["nowhere", "after_poll:x", ":3", "after_poll:-1"])
def test_a_wrong_name_or_count_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        FailPoints.from_environment({VARIABLE: text})


def test_only_the_named_place_and_visit_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths: list[str] = []
    monkeypatch.setattr(fail_points, "_kill", lambda: deaths.append("dead"))
    points = FailPoints.from_environment({VARIABLE: "before_offsets:2"})
    for name in ("after_poll", "before_offsets"):
        points.reach(name)
    assert deaths == []
    points.reach("before_offsets")
    assert deaths == ["dead"]
    points.reach("before_offsets")
    assert deaths == ["dead"]
