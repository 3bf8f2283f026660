from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from penstock_pipelines.loader import Location, load_pipeline, parse_yaml
from penstock_schemas.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
FRAUD = REPOSITORY / "pipelines" / "fraud"

Edit = Callable[..., Path]
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


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """Copy the fraud pipeline with one piece of pipeline.yaml replaced."""

    def edit(old: str, new: str, file: str = "pipeline.yaml") -> Path:
        folder = tmp_path / "fraud"
        shutil.copytree(FRAUD, folder)
        text = (folder / file).read_text()
        assert text.count(old) >= 1
        (folder / file).write_text(text.replace(old, new, 1))
        return folder

    return edit


def line_of(path: Path, needle: str) -> int:
    return next(i for i, s in enumerate(path.read_text().splitlines(), 1) if needle in s)


def test_fraud_loads_with_thirty_features() -> None:
    loaded = load_pipeline(FRAUD)
    assert len(loaded.config.feature_names) == 30
    assert loaded.folder == FRAUD
    assert '"CardTransaction"' in loaded.event_schema


def test_every_shipped_pipeline_loads() -> None:
    folders = [file.parent for file in (REPOSITORY / "pipelines").glob("*/pipeline.yaml")]
    assert FRAUD in folders
    for folder in folders:
        assert load_pipeline(folder).config.pipeline == folder.name


@pytest.mark.parametrize(
    ("old", "new", "field", "expected", "got"),
    [
        ("threshold: 0.5", "threshold: 1.5", "threshold", "less than or equal to 1", "1.5"),
        ("threshold: 0.5", "treshold: 0.5", "treshold", "threshold", "an unknown key"),
        ("  key: account_id", "  kye: account_id", "event.key", "a value (required)", "nothing"),
        ("  key: account_id", "  key: acount_id", "event.key", "account_id", "'acount_id'"),
        ("  key: account_id", "  key: amount", "event.key", "long or string", "double"),
        ("  time: event_time", "  time: amount", "event.time", "timestamp-millis", "double"),
        ("  id: event_id", "  id: amount", "event.id", "string", "double"),
        ("transform: log1p}", "transform: log2}", "features[0].transform", "'log1p'", "'log2'"),
        ("from: merchant_category", "from: amount", "features[4].from", "enum or string", "double"),
        ("phone]", "fax]", "features[5].values", "phone", "fax"),
        ("of: amount", "of: country", "features[8].aggregate.of", "double", "string"),
        (", of: amount", "", "features[8].aggregate.of", "the field", "nothing"),
        ("field: amount", "field: amout", "rules[2].field", "amount", "'amout'"),
        ("field: amount", "field: country", "rules[2].field", "double", "string"),
        ("field: country", "field: amount", "rules[4].field", "string", "double"),
        ("count_24h: count_24h", "count_24h: count_2h", "feast.write_back", "feature", "count_2h"),
        ("pipeline: fraud", "pipeline: froud", "pipeline", "'fraud'", "'froud'"),
        ("partitions: 4", "partitions: 0", "partitions", "greater than 0", "0"),
        ("partitions: 4", "partitions: [", "", "YAML", ""),
        ("threshold: 0.5", "partitions: 4", "partitions", "each key once", "again"),
        ("simulator: card_transactions", "data: x.csv", "model.bootstrap.data", "a file", "x.csv"),
        ("schema: event.avsc", "schema: evt.avsc", "event.schema", "a readable Avro", "evt.avsc"),
    ],
)
def test_error_names_file_line_field_expected_and_got(
    edited: Edit, old: str, new: str, field: str, expected: str, got: str
) -> None:
    folder = edited(old, new)
    with pytest.raises(ConfigError) as caught:
        load_pipeline(folder)
    message = str(caught.value)
    assert f"{folder / 'pipeline.yaml'}:" in message
    for part in (field, expected, got):
        assert part in message


def test_error_points_at_the_line(edited: Edit) -> None:
    folder = edited("transform: hour_sin", "transform: hour_tan")
    line = line_of(folder / "pipeline.yaml", "hour_tan")
    with pytest.raises(ConfigError, match=rf"pipeline\.yaml:{line}: features\[1\]\.transform"):
        load_pipeline(folder)


def test_several_errors_are_reported_at_once(edited: Edit) -> None:
    folder = edited("threshold: 0.5", "threshold: 7\nnonsense: 1")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(folder)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("kind", ['"bytes"', '{"type": "string", "logicalType": "uuid"}'])
def test_event_type_the_decoder_lacks_is_refused(edited: Edit, kind: str) -> None:
    folder = edited(
        '"name": "amount", "type": "double"',
        f'"name": "amount", "type": {kind}',
        file="event.avsc",
    )
    line = line_of(folder / "event.avsc", '"amount"')
    with pytest.raises(ConfigError, match=rf"event\.avsc:{line}: amount: expected a type other"):
        load_pipeline(folder)


def test_event_schema_that_is_not_json_names_the_line(edited: Edit) -> None:
    folder = edited('"type": "record",', '"type" "record",', file="event.avsc")
    with pytest.raises(ConfigError, match=r"event\.avsc:2: expected JSON"):
        load_pipeline(folder)


def test_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a pipeline folder"):
        load_pipeline(tmp_path / "nothing")


def test_feast_section_needs_definitions(edited: Edit) -> None:
    folder = edited("threshold: 0.5", "threshold: 0.5")
    (folder / "features.py").unlink()
    with pytest.raises(ConfigError, match=r"feast: expected features\.py"):
        load_pipeline(folder)


def test_a_country_that_yaml_reads_as_false_is_reported(edited: Edit) -> None:
    folder = edited('pattern: "[A-Z]{2}"', "one_of: [DE, NO]")
    with pytest.raises(ConfigError, match=r"rules\[4\]\.one_of\[1\]: expected a valid string"):
        load_pipeline(folder)


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
