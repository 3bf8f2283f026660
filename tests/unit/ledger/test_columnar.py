"""Facts of batches: two decoders that have to agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from penstock_ledger import RecordColumns, RecordDecoder
from penstock_ledger.columnar import FactReader
from penstock_ledger.records import RawRecord, Role
from synthetic import build
from synthetic_log import SCHEMA_TEXTS, TOPICS, frame, unframe

AVRO: tuple[Role, ...] = ("features", "predictions")


def reader(role: Role) -> FactReader:
    return FactReader(role, TOPICS, RecordDecoder(lambda number: SCHEMA_TEXTS[number]))


@pytest.fixture
def records(seed: int) -> dict[Role, list[RawRecord]]:
    return build(seed).records


@pytest.mark.parametrize("role", AVRO)
def test_columns_say_what_fastavro_says(role: Role, records: dict[Role, list[RawRecord]]) -> None:
    facts = reader(role).facts(RecordColumns.of(records[role]))
    assert not facts.unreadable
    for row, record in enumerate(records[role]):
        value = unframe(role, record.value)
        found = [column[row] for column in facts.columns]
        assert found[:2] == [value["origin"]["partition"], value["origin"]["offset"]]
        if role == "predictions":
            names = ("model_name", "model_version", "variant", "attempt", "outcome")
            assert found[5:10] == [value[name] for name in names]
            assert found[10:] == [len(value["scores"]), int(value["decision"])]


@pytest.mark.parametrize("role", AVRO)
def test_a_bad_record_leaves_its_neighbours_alone(
    role: Role, records: dict[Role, list[RawRecord]]
) -> None:
    good = records[role][:20]
    value = good[5].value or b""
    bad: dict[int, bytes | None] = {
        1: None, 3: b"", 5: value[:-2], 7: value + b"x", 9: b"\x09" + value[1:],
        11: value[:4] + b"\x63" + value[5:],
        13: frame(role, unframe(role, value) | {"origin": None}),
    }  # fmt: skip
    batch = [replace(r, value=bad.get(row, r.value)) for row, r in enumerate(good)]
    facts = reader(role).facts(RecordColumns.of(batch))
    whole = reader(role).facts(RecordColumns.of(good))
    assert [row for row, _ in facts.unreadable] == sorted(bad)
    for row in range(len(good)):
        found = [column[row] for column in facts.columns]
        expected = [None if row in bad else column[row] for column in whole.columns]
        assert found == expected, row


def test_a_decoder_that_reads_wrongly_is_found_out(
    records: dict[Role, list[RawRecord]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = reader("features")
    columns = wrong._columns

    def shifted(batch: object) -> object:
        found = columns(batch)  # type: ignore[arg-type]
        found[1] = [offset + 1 for offset in found[1]]
        return found

    monkeypatch.setattr(wrong, "_columns", shifted)
    (refused,) = wrong.facts(RecordColumns.of(records["features"])).unreadable
    assert refused[1] == "two decoders of Avro do not agree on it"


def test_features_that_are_not_numbers_are_read(records: dict[Role, list[RawRecord]]) -> None:
    (record, *_) = records["features"]
    value = unframe("features", record.value) | {"features": [float("nan"), 1.0]}
    batch = [replace(record, value=frame("features", value))]
    assert not reader("features").facts(RecordColumns.of(batch)).unreadable
