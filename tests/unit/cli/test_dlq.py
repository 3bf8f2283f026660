"""A dead letter is shown without what it says, unless that is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from harness.replay import PlainRecord
from hypothesis import given
from hypothesis import strategies as st
from penstock_cli.dlq import letter_view, masked, print_letter
from penstock_replay.dead_letters import Found, Letter
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import RegistryUnavailable, RuleViolation
from penstock_streaming.dead_letters import Failure, dead_letter

CARD = "4242-4242"
SCHEMA = json.dumps({"type": "record", "name": "E", "fields": [{"name": "card", "type": "string"}]})


class Registry:
    """Knows one schema, or is away."""

    def __init__(self, *, is_up: bool = True) -> None:
        self._is_up = is_up

    def schema_text(self, schema_id: int) -> str:
        if not self._is_up:
            raise RegistryUnavailable("away")
        return SCHEMA


def view(value: bytes | None, *, payload: bool, is_up: bool = True) -> dict[str, Any]:
    event: Any = PlainRecord(
        ("p.events.v1", 0, 7),
        CARD.encode(),
        value,
        1_700_000_000_000,
        [("who", CARD.encode()), ("who", b"\xff")],
    )
    letter = dead_letter(event, Failure(RuleViolation("no"), "ingest", None, 1_700_000_000_000))
    record: Any = PlainRecord(
        ("p.events.v1.dlq", 0, 1), letter.key, letter.value, letter.timestamp_ms, letter.headers
    )
    registry: Any = Registry(is_up=is_up)
    return letter_view(Found(Letter.read(record), record, "", False), registry, payload=payload)


VALUES = {
    "avro": encode_one(SCHEMA, 5, {"card": CARD}),
    "json": json.dumps({"card": CARD}).encode(),
    "bytes": b"\xfe" + CARD.encode(),
}


@pytest.mark.parametrize("form", VALUES)
def test_the_payload_is_shown_only_when_it_is_asked_for(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    closed, opened = (view(VALUES[form], payload=asked) for asked in (False, True))
    assert closed["format"] == opened["format"] == form
    assert CARD not in json.dumps(closed)
    print_letter(closed)
    assert CARD not in capsys.readouterr().out
    print_letter(opened)
    assert CARD in capsys.readouterr().out
    assert [h["value"] for h in opened["headers"]] == [CARD, "0xff"]
    expected = "0x" + VALUES["bytes"].hex() if form == "bytes" else {"card": CARD}
    assert opened["value"] == expected


@pytest.mark.parametrize("value", [b"[" * 50_000, b'{"a":' * 50_000, b"NaN", b"1" * 5000])
def test_odd_json_is_shown_somehow(value: bytes) -> None:
    json.dumps(view(value, payload=True), allow_nan=False)


def test_it_says_why_and_from_where() -> None:
    shown = view(VALUES["avro"], payload=False)
    assert shown["cause"] == "RuleViolation: no"
    assert shown["origin"] == "p.events.v1/0/7"
    assert (shown["class"], shown["attempt"], shown["schema_id"]) == ("rule", 1, "5")


def test_without_a_registry_the_bytes_are_shown() -> None:
    assert view(VALUES["avro"], payload=True, is_up=False)["format"] == "bytes"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(min_size=3) | st.binary(min_size=3),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_whatever_is_decoded_can_be_masked_as_json(value: Any) -> None:
    json.dumps(masked(value))


@given(st.binary(max_size=600))
def test_any_bytes_can_be_shown(value: bytes) -> None:
    for payload in (False, True):
        json.dumps(view(value, payload=payload), allow_nan=False)
