"""Clients of the product: a producer of card transactions, and HTTP callers of an application.

`ProducerApp` publishes good and bad events with confluent-kafka, as a foreign application does.
`serving` puts an application behind a real socket and `Caller` writes what bytes it likes to it;
`call` asks an application in this process without a socket, thousands of times in a second.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fastavro
import uvicorn
from confluent_kafka import KafkaError, Message, Producer
from fastapi import FastAPI
from harness.records import FORMS, RARE, Encode, Row
from harness.waiting import eventually
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
    from penstock_simulator.card_transactions import CardTransactions

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


DEADLINE_S = 10.0
"""Longest silence of the server: more is a hang, seconds."""
DEFINED = frozenset({400, 404, 405, 408, 413, 415, 429, 503, 504})
"""Statuses that a request of whatever kind may end with; 500 is a defect of ours."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Calls a server on this machine over connections of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def raw(self, request: bytes) -> Answer:
        """Send bytes as they are and return the answer; a hang is a TimeoutError."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_answer(connection)

    def post(self, path: str, body: bytes, *headers: str) -> Answer:
        """Post a body to a path that is sent as it is written."""
        lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, path: str) -> Answer:
        return self.raw(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode("latin-1"))


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer from a connection."""
    with HTTPResponse(connection) as response:
        response.begin()
        return Answer(response.status, dict(response.headers.items()), response.read())


def well_said(answer: Answer) -> None:
    """Check that an error has the protocol's form and a status that the document names."""
    assert answer.status in DEFINED, (answer.status, answer.body[:200])
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["error"]


@contextmanager
def serving(app: FastAPI) -> Iterator[Caller]:
    """Serve an application on a free port for the length of the block."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, DEADLINE_S, every_s=0.01)
    try:
        yield Caller(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


async def call(
    app: Any, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Return the application's answer."""
    raw = [
        (name.lower().encode(), text.encode("latin-1")) for name, text in (headers or {}).items()
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": b"",
        "root_path": "",
        "headers": raw,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    incoming = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), DEADLINE_S)
    start = next(m for m in sent if m["type"] == "http.response.start")
    found = {name.decode(): text.decode("latin-1") for name, text in start["headers"]}
    return Answer(start["status"], found, b"".join(m.get("body", b"") for m in sent))
