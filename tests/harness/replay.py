"""A pipeline's topics with events and dead letters in them, and the command line beside it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from confluent_kafka import (
    Message,
    Producer,
)
from harness.kafka import Isolation, delete_topics, read_topic
from harness.kills import kill_job
from penstock_cli.main import main
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_schemas.errors import ModelRejected, RecordError, RuleViolation
from penstock_schemas.records import AuditEvent
from penstock_schemas.topics import PipelineTopics
from penstock_streaming.admin import apply
from penstock_streaming.audit import AuditLog
from penstock_streaming.dead_letters import Failure, dead_letter
from penstock_streaming.settings import KafkaSettings


@dataclass(frozen=True)
class PlainRecord:
    """What is asked of the client's message, as plain values."""

    at: tuple[str, int, int] = ("t", 0, 0)
    a_key: bytes | None = None
    a_value: bytes | None = b"value"
    at_ms: int = 0
    a_header: list[tuple[str, bytes | None]] = field(default_factory=list)

    def topic(self) -> str:
        """Return the topic."""
        return self.at[0]

    def partition(self) -> int:
        """Return the partition."""
        return self.at[1]

    def offset(self) -> int:
        """Return the offset."""
        return self.at[2]

    def key(self) -> bytes | None:
        """Return the key."""
        return self.a_key

    def value(self) -> bytes | None:
        """Return the value."""
        return self.a_value

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of timestamp and the timestamp, milliseconds."""
        return 1, self.at_ms

    def headers(self) -> list[tuple[str, bytes | None]]:
        """Return the headers."""
        return self.a_header


TIMEOUT_S = 30.0
PARTITIONS = 3
# An hour ago, to the second: retention by time deletes what is dated long ago.
MS = (time.time_ns() // 10**9 - 3_600) * 1_000
Outcome = tuple[object, dict[str, Any], str]
"""Exit code, JSON document and standard error of a command."""
Content = tuple[int, bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]
"""Partition, key, value, timestamp and headers of a record."""


def content(message: Message) -> Content:
    """Return what a copy has to keep."""
    headers: Any = message.headers() or []
    return (
        message.partition() or 0,
        message.key(),
        message.value(),
        message.timestamp()[1],
        tuple(headers),
    )


@dataclass
class ReplayedPipeline:
    """One pipeline on a real broker."""

    bootstrap: str
    registry_url: str
    folder: Path
    name: str = field(default_factory=lambda: f"replay-{uuid.uuid4().hex[:8]}")
    made: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.topics = PipelineTopics(self.name)
        self.kafka = KafkaSettings(bootstrap_servers=self.bootstrap)
        self.registry = RegistryClient(RegistrySettings(url=self.registry_url))
        self.audit = AuditLog(self.kafka, self.registry)
        names = self.topics
        both = (names.events, names.features)
        needed = {*both, *map(names.dead_letter, both), *map(names.parked, both)}
        wanted = [t for t in names.all(PARTITIONS) if t.name in needed]
        apply(self.kafka, self.registry, wanted, {})
        self.made |= needed
        (self.folder / "pipelines" / self.name).mkdir(parents=True)
        (self.folder / "pipelines" / self.name / "pipeline.yaml").write_text(
            f"pipeline: {self.name}\n"
        )
        self._producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "linger.ms": 5}
        )

    def send(self, count: int, *, topic: str = "", first: int = 0) -> list[Message]:
        """Produce events with odd bytes, equal and null headers, and return them as they lie."""
        topic = topic or self.topics.events
        sent: list[Message] = []
        for i in range(first, first + count):
            self._producer.produce(
                topic,
                b"\x00\xffvalue-%d" % i,
                b"key-%d" % (i % 7) if i % 11 else None,
                i % PARTITIONS,
                timestamp=MS + i * 1000,
                headers=[("trace", b"\xff%d" % i), ("trace", b"again"), ("none", None)],
                on_delivery=lambda error, message: sent.append(message),
            )
        assert self._producer.flush(TIMEOUT_S) == 0
        assert all(m.error() is None for m in sent)
        places = {(m.partition(), m.offset()) for m in sent}
        return [m for m in self.read(topic) if (m.partition(), m.offset()) in places]

    def fail(
        self, messages: Iterable[Message], error: RecordError | None = None, origin: str = ""
    ) -> None:
        """Write the dead letters of messages, as the loop does."""
        for message in messages:
            failed = error or RuleViolation("amount is over its limit", field="amount")
            service = "inference" if isinstance(failed, ModelRejected) else "ingest"
            letter = dead_letter(message, Failure(failed, service, origin or None, MS))
            headers: Any = letter.headers
            self._producer.produce(
                self.topics.dead_letter(message.topic() or ""),
                letter.value,
                letter.key,
                letter.partition,
                timestamp=letter.timestamp_ms,
                headers=headers,
            )
        assert self._producer.flush(TIMEOUT_S) == 0

    def read(self, topic: str, isolation: Isolation = "read_committed") -> list[Message]:
        """Return the records of a topic, by partition and offset, up to its end."""
        return read_topic(self.bootstrap, topic, isolation)

    def penstock(self, *arguments: object, expect: int = 0, fail_point: str = "") -> dict[str, Any]:
        """Run the command line and return its JSON; its exit code must be the expected one."""
        if fail_point:
            code, answer, err = self._apart(arguments, fail_point)
        else:
            code, answer, err = run_penstock(self.folder, *arguments, *self._where)
        assert code == expect, f"{arguments}: {code}\n{err[-2000:]}"
        assert "Traceback" not in err
        return {**answer, "stderr": err}

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--bootstrap-servers", self.bootstrap, "--registry-url", self.registry_url)

    def _apart(self, arguments: tuple[object, ...], fail_point: str) -> Outcome:
        """Run the command line in a process that can be killed."""
        process = self.start(*arguments, fail_point=fail_point)
        out, err = process.communicate(timeout=100)
        return process.returncode, json.loads(out or "{}"), err

    def start(self, *arguments: object, fail_point: str = "") -> subprocess.Popen[str]:
        """Start the command line as a process of its own."""
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "penstock_cli",
                "-o",
                "json",
                *map(str, arguments),
                *self._where,
            ],
            cwd=self.folder,
            env={**os.environ, **kill_job(fail_point), "PENSTOCK_ACTOR": "ann"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def audited(self, subject: str) -> list[AuditEvent]:
        """Return the audit events about a subject."""
        return [e for e in self.audit.events() if e.subject == subject]

    def close(self) -> None:
        """Delete the topics."""
        delete_topics(self.bootstrap, self.made)


def origin(message: Message) -> bytes:
    """Return topic/partition/offset, as a header holds it."""
    return f"{message.topic()}/{message.partition()}/{message.offset()}".encode()


def as_replayed(message: Message, attempts: int | None = None) -> tuple[object, ...]:
    """Return the content that the copy of an original must have."""
    *rest, headers = content(message)
    added = [("penstock.replay.of", origin(message))]
    if attempts is not None:
        added.append(("dlq.attempt", str(attempts).encode()))
    return (*rest, (*headers, *added))


def copies(pipeline: ReplayedPipeline, topic: str, originals: list[Message]) -> list[Message]:
    """Return the records of a topic that are not the originals."""
    known = {(m.partition(), m.offset()) for m in originals}
    return [m for m in pipeline.read(topic) if (m.partition(), m.offset()) not in known]


def attempts_of(message: Message) -> int:
    """Return how often a replayed event has failed before."""
    return int(dict(message.headers() or []).get("dlq.attempt", b"0"))


def run_penstock(folder: Path, *arguments: object) -> Outcome:
    """Run the command line in this process, since a start of its own takes a second."""
    out, err = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(out),
        redirect_stderr(err),
        chdir(folder),
        patch.dict(os.environ, {"PENSTOCK_ACTOR": "ann"}),
        pytest.raises(SystemExit) as ended,
    ):
        main(["-o", "json", *map(str, arguments)])
    return ended.value.code or 0, json.loads(out.getvalue() or "{}"), err.getvalue()
