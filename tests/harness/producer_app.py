"""A producer application: card transactions, good and bad, published with confluent-kafka."""

from __future__ import annotations

import io
import json
import random
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
from confluent_kafka import KafkaError, Message, Producer
from harness.spoilt import FORMS, RARE, Encode, Row
from penstock_ledger.decoding import PREFIX

SEND_TIMEOUT_S = 60.0


@dataclass
class Published:
    """What was sent and where it lies.

    Parameters
    ----------
    bad
        Dead-letter class of each bad event, by (partition, offset).
    forms
        How many were sent in each unusual form.
    """

    bad: dict[tuple[int, int], str] = field(default_factory=dict)
    forms: dict[str, int] = field(default_factory=dict)
    events: int = 0
    delivered: int = 0
    tombstones: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def good(self) -> int:
        """Events that must be predicted."""
        return self.events - len(self.bad) - self.tombstones


def register_schema(registry_url: str, subject: str, schema_text: str) -> int:
    """Register a schema as any application does and return its id."""
    request = urllib.request.Request(  # noqa: S310 - the test's own registry
        f"{registry_url}/subjects/{subject}/versions",
        json.dumps({"schema": schema_text}).encode(),
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request, timeout=SEND_TIMEOUT_S) as answer:  # noqa: S310
        return int(json.load(answer)["id"])


def avro_encoder(schema_text: str, schema_id: int) -> Encode:
    """Return a function from row to Confluent-framed Avro."""
    schema = fastavro.parse_schema(json.loads(schema_text))
    prefix = PREFIX.pack(0, schema_id)

    def encode(row: Row) -> bytes:
        stream = io.BytesIO()
        stream.write(prefix)
        fastavro.schemaless_writer(stream, schema, row)
        return stream.getvalue()

    return encode


class ProducerApp:
    """Publishes events of one pipeline.

    Parameters
    ----------
    key_field
        Field whose text is the record key.
    """

    def __init__(
        self, bootstrap: str, registry_url: str, topic: str, schema_file: Path, key_field: str
    ) -> None:
        self.topic = topic
        self._key_field = key_field
        text = schema_file.read_text()
        self.encode = avro_encoder(text, register_schema(registry_url, f"{topic}-value", text))
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.max.bytes": 4 * 1024 * 1024,
                "compression.type": "lz4",
                "linger.ms": 5,
            }
        )

    def publish(
        self,
        rows: Iterable[tuple[Row, str | None]],
        published: Published,
        rate: float | None = None,
    ) -> Published:
        """Send rows in their forms (None = plain Avro) at ``rate`` a second; wait for delivery."""
        start, pause = time.monotonic(), threading.Event()

        def keep_pace(sent: int) -> None:
            if rate is not None:
                pause.wait(max(0.0, start + sent / rate - time.monotonic()))

        sent = 0
        for row, form in rows:
            self._send(row, form, published)
            sent += 1
            if sent % 256 == 0:
                self._producer.poll(0)
                keep_pace(sent)
        keep_pace(sent)
        assert self._producer.flush(SEND_TIMEOUT_S) == 0, "events not delivered"
        assert not published.errors, published.errors[:3]
        return published

    def _send(self, row: Row, name: str | None, published: Published) -> None:
        form = FORMS[name] if name is not None else None
        value = self.encode(row) if form is None else form.value(row, self.encode)
        key = str(row[self._key_field]).encode() if form is None or form.keyed else None
        becomes = "predicted" if form is None else form.becomes
        published.events += 1
        if name is not None:
            published.forms[name] = published.forms.get(name, 0) + 1

        def delivered(error: KafkaError | None, message: Message) -> None:
            published.delivered += 1
            if error is not None:
                published.errors.append(str(error))
            elif becomes == "skip":
                published.tombstones += 1
            elif becomes != "predicted":
                published.bad[message.partition() or 0, message.offset() or 0] = becomes

        # Not the time of sending: a dead letter must keep it to the millisecond.
        timestamp = time.time_ns() // 1_000_000 - published.events % 3_600_000
        while True:
            try:
                self._producer.produce(
                    self.topic,
                    value,
                    key,
                    timestamp=timestamp,
                    headers=[("trace", b"%d" % published.events), ("empty", b""), ("null", None)],
                    on_delivery=delivered,
                )
            except BufferError:
                self._producer.poll(1.0)
            else:
                return


def card_rows(seed: int, count: int, bad_share: float = 0.0) -> Iterator[tuple[Row, str | None]]:
    """Yield card transactions; a share of them in the forms of `FORMS`, each form in turn."""
    rng = random.Random(seed)
    names = list(FORMS)
    rng.shuffle(names)
    left = dict(RARE)
    turn = 0
    for number, row in enumerate(_transactions(seed, count)):
        form = None
        if number % max(1, round(1 / bad_share)) == 7 if bad_share else False:
            form, turn = names[turn % len(names)], turn + 1
            if left.get(form, 1) == 0:
                form = "truncated"
            elif form in left:
                left[form] -= 1
        yield row, form


def _transactions(seed: int, count: int) -> Iterator[Row]:
    from penstock_simulator.transactions import CardTransactions

    generator = CardTransactions(seed)
    now_ms = time.time_ns() // 1_000_000
    start = generator.start_before(now_ms, count, 100.0)
    columns = generator.generate(count, start, 100.0).columns
    lists: dict[str, list[Any]] = {
        name: columns.column(name).cast("int64").to_pylist()
        if name == "event_time"
        else columns.column(name).to_pylist()
        for name in columns.schema.names
    }
    names = list(lists)
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(names, values, strict=True))
