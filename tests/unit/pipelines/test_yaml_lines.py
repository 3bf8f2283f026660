from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from penstock_pipelines.yaml_lines import Location, parse_yaml
from penstock_schemas.errors import ConfigError

SCALARS = st.one_of(st.integers(), st.booleans(), st.text(alphabet="abcxyz", min_size=1))
KEYS = st.text(alphabet="abcdefgh", min_size=1, max_size=5)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
        ),
        max_leaves=8,
    ),
    min_size=1,
)


def locations(value: object, at: Location = ()) -> list[Location]:
    found = [at]
    if isinstance(value, dict):
        for key, child in value.items():
            found += locations(child, (*at, str(key)))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            found += locations(child, (*at, index))
    return found


@given(tree=TREES)
def test_every_value_has_its_line(tree: dict[str, object], tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("y") / "a.yaml"
    path.write_text(yaml.safe_dump(tree, default_flow_style=False))
    document = parse_yaml(path)
    assert document.data == tree
    text = path.read_text().splitlines()
    for at in locations(tree):
        line = document.line_of(at)
        assert 1 <= line <= len(text)
        if at and isinstance(at[-1], str):
            assert f"{at[-1]}:" in text[line - 1].replace("'", "").replace('"', "")


def test_unknown_location_falls_back_to_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("top: 1\nouter:\n  inner: 2\n")
    assert parse_yaml(path).line_of(("outer", "missing")) == 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "a: [1\n", "a: 1\na: 2\n", "--- 1\n--- 2\n"])
def test_what_is_not_one_document_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        parse_yaml(path)
