"""Events that break the contract, with the dead-letter class the contract's table promises.

On purpose independent of the simulator's own list.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Row = dict[str, Any]
Encode = Callable[[Row], bytes]
MEBIBYTE: Final = 1024 * 1024
NO_SUCH_SCHEMA: Final = 2_000_000_011


@dataclass(frozen=True, slots=True)
class Form:
    """How an event is sent.

    Parameters
    ----------
    becomes
        A dead-letter class, predicted, or skip.
    value
        Makes the record's value from the row and the Avro encoder.
    keyed
        Whether the record has its key.
    """

    becomes: str
    value: Callable[[Row, Encode], bytes | None]
    keyed: bool = True


def _json(row: Row) -> bytes:
    return json.dumps(row).encode()


def _without(row: Row, field: str) -> Row:
    return {name: value for name, value in row.items() if name != field}


FORMS: Final[dict[str, Form]] = {
    "wrong magic byte": Form("decode", lambda r, avro: b"\x01" + avro(r)[1:]),
    "empty": Form("decode", lambda r, avro: b""),
    "four bytes": Form("decode", lambda r, avro: avro(r)[:4]),
    "prefix only": Form("decode", lambda r, avro: avro(r)[:5]),
    "truncated": Form("decode", lambda r, avro: avro(r)[:-4]),
    "trailing": Form("decode", lambda r, avro: avro(r) + b"\x00"),
    "broken json": Form("decode", lambda r, avro: _json(r)[:-1]),
    "length bomb": Form("decode", lambda r, avro: avro(r)[:5] + b"\xfe\xff\xff\xff\xff\x7f"),
    "unknown schema": Form(
        "schema", lambda r, avro: struct.pack(">bI", 0, NO_SUCH_SCHEMA) + avro(r)[5:]
    ),
    "json field missing": Form("schema", lambda r, avro: _json(_without(r, "amount"))),
    "json field mistyped": Form("schema", lambda r, avro: _json(r | {"amount": "much"})),
    "json field null": Form("schema", lambda r, avro: _json(r | {"currency": None})),
    "amount too small": Form("rule", lambda r, avro: avro(r | {"amount": -1.0})),
    "amount nan": Form("rule", lambda r, avro: avro(r | {"amount": math.nan})),
    "amount infinite": Form("rule", lambda r, avro: avro(r | {"amount": math.inf})),
    "currency": Form("rule", lambda r, avro: avro(r | {"currency": "euro"})),
    "json rule": Form("rule", lambda r, avro: _json(r | {"amount": 0.0})),
    "no key": Form("rule", lambda r, avro: avro(r), keyed=False),
    "oversize": Form("oversize", lambda r, avro: avro(r | {"merchant_id": "m" * MEBIBYTE})),
    "tombstone": Form("skip", lambda r, avro: None),
    # Unusual, and good.
    "json": Form("predicted", lambda r, avro: _json(r)),
    "json whole number": Form("predicted", lambda r, avro: _json(r | {"amount": 12})),
    "category never seen": Form(
        "predicted", lambda r, avro: avro(r | {"merchant_category": "zoo"})
    ),
    "device unknown": Form("predicted", lambda r, avro: avro(r | {"device_age_days": None})),
    "text": Form("predicted", lambda r, avro: avro(r | {"merchant_id": "Ünïcode\u0000'<b>\n"})),
}
"""Forms of a card transaction, by name."""

RARE: Final = {"oversize": 6}
"""At most so many of a form in one run: they are large."""
