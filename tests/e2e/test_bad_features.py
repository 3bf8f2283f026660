"""What only the second hop can refuse: FeatureVectors the model cannot take."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from confluent_kafka import Producer
from harness.clients import ProducerApp, Published, avro_encoder, card_rows, register_schema
from harness.judges import LedgerRun
from harness.stack import Stack
from harness.waiting import eventually
from penstock_ledger.decoding import header_text
from penstock_ledger.records import RawRecord, original_headers

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LARGEST = 3.4e38
NOW_MS = time.time_ns() // 1_000_000


def registered_text(fraud: LedgerRun) -> str:
    import urllib.request

    url = f"{fraud.registry_url}/subjects/{fraud.topics.features}-value/versions/latest"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - own stack
        return str(json.load(answer)["schema"])


def vectors(template: dict[str, Any], encode: Any) -> dict[str, tuple[str, bytes]]:
    """Return (class, value) of each bad vector, by what is wrong with it."""
    good = template["features"]
    short, long = good[:-1], [*good, 0.0]
    return {
        "one feature less": ("shape", encode(template | {"features": short})),
        "one feature more": ("shape", encode(template | {"features": long})),
        "no features": ("shape", encode(template | {"features": []})),
        "not a number": ("rule", encode(template | {"features": [float("nan"), *good[1:]]})),
        "largest floats": ("model", encode(template | {"features": [LARGEST] * len(good)})),
        "truncated": ("decode", encode(template)[:-2]),
        "trailing": ("decode", encode(template) + b"\x00"),
    }


def test_refused_vectors_are_dead_letters_and_neighbours_go_on(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    published = cards.publish(card_rows(seed, 200), Published())
    fraud.drain(60)
    (template, *_) = fraud.decoded("features")
    text = registered_text(fraud)
    name = fraud.topics.features
    encode = avro_encoder(text, register_schema(fraud.registry_url, f"{name}-value", text))
    # A window of its own: these vectors have no event in it, so the ledger of events ends here.
    assert fraud.report(published).ok
    window = LedgerRun(fraud.bootstrap, fraud.registry_url, "fraud")
    bad = vectors(template, encode)
    sent: dict[str, RawRecord] = {}
    producer = Producer({"bootstrap.servers": fraud.bootstrap})
    headers: list[tuple[str, str | bytes | None]] = [("trace", b"7"), ("trace", None)]
    for number, (what, (_, value)) in enumerate(bad.items()):
        timestamp = NOW_MS - number
        sent[what] = RawRecord(
            0, 0, what.encode(), value, timestamp, (("trace", b"7"), ("trace", None))
        )
        producer.produce(name, value, what.encode(), 0, timestamp=timestamp, headers=headers)
        producer.produce(name, encode(template), b"neighbour", 0)
    assert producer.flush(15) == 0
    window.drain(60)
    eventually(lambda: window.count("features_dlq") == len(bad), 30, "every bad one is dead")
    assert window.count("predictions") == len(bad), "the good neighbours are predicted"
    found = {(r.key or b"").decode(): r for r in window.records("features_dlq")}
    assert set(found) == set(bad)
    for what, record in found.items():
        assert header_text(record.headers, "dlq.class") == bad[what][0], what
        assert record.value == sent[what].value, what
        assert record.timestamp_ms == sent[what].timestamp_ms, what
        assert original_headers(record.headers) == original_headers(sent[what].headers), what
        assert header_text(record.headers, "__streams.errors.topic") == name
