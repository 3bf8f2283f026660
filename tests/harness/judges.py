"""Judges of a run: the ledger's verdict on a window of the log, and components' own figures.

`LedgerRun` is a window of a pipeline's log from now on, with what a test published in it.
`LiveReader` reads it read_committed while faults happen; what it saw must stay visible. The rest
reads Prometheus metrics and Triton's statistics.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

from confluent_kafka import Consumer, KafkaError, TopicPartition
from harness.clients import Published
from harness.waiting import eventually
from penstock_ledger import (
    Counter,
    Fault,
    LedgerTopics,
    RawRecord,
    ReadOptions,
    Report,
    Store,
    check,
)
from penstock_ledger.decoding import RecordDecoder
from penstock_ledger.log_client import LogClient
from penstock_ledger.reader import SERVICES, read_pipeline, schema_reader
from penstock_ledger.records import ROLES, Role, Service
from penstock_ledger.topic_range import Isolation, TopicRange, consumer_config, raw_record
from prometheus_client.parser import text_string_to_metric_families

FOREVER: Final = 1e18
"""The test's own timeout bounds these reads."""
READ_TIMEOUT_S: Final = 600.0


class LedgerRun:
    """Starts a window at the present ends of the topics; later checks what came after.

    Parameters
    ----------
    pipeline
        Name of the pipeline.
    """

    def __init__(self, bootstrap: str, registry_url: str, pipeline: str) -> None:
        self.bootstrap = bootstrap
        self.registry_url = registry_url
        self.topics = LedgerTopics.of(pipeline)
        self.client = LogClient(bootstrap)
        self.marks = self.client.marks(self.topics)

    def backlog(self, service: Service) -> int:
        """Return how many visible records a service has not committed yet."""
        name = self.topics.name(self.topics.input_role(service))
        end = self.client.offsets(name, "last", "read_committed")
        done = self.client.committed(self.topics.group(service), name)
        first = self.client.offsets(name, "first", "read_committed")
        start = {p: max(done.get(p, 0), first[p]) for p in end}
        far = sum(max(0, end[p] - start[p]) for p in end)
        if service == "ingest" or far > 1_000:
            return far
        # The rest may be control records only, which no client sees.
        batches = TopicRange(self.bootstrap, name, start).batches("read_committed", end, FOREVER)
        return sum(len(batch) for batch in batches)

    def done(self, service: Service) -> int:
        """Return how far a service has committed since the window's start, in offsets."""
        return sum(self.done_by_partition(service).values())

    def done_by_partition(self, service: Service) -> dict[int, int]:
        """Return the same of each partition."""
        name = self.topics.name(self.topics.input_role(service))
        committed = self.client.committed(self.topics.group(service), name)
        marks = {p: self.marks[name].get(p, 0) for p in self.client.partitions(name)}
        return {p: max(0, committed.get(p, mark) - mark) for p, mark in marks.items()}

    def drain(self, deadline_s: float) -> None:
        """Wait until both hops have nothing left."""
        eventually(lambda: self.backlog("ingest") == 0, deadline_s, "ingest drained")
        eventually(lambda: self.backlog("inference") == 0, deadline_s, "inference drained")
        # A killed worker's transaction hides what its successor has committed behind it.
        for service in SERVICES:
            eventually(
                lambda s=service: not self.has_open_transaction(s),
                deadline_s,
                f"{service} is still",
            )

    def records(
        self,
        role: Role,
        isolation: Isolation = "read_committed",
        end: dict[int, int] | None = None,
    ) -> list[RawRecord]:
        """Return the window's records of a topic that a view shows, up to ``end`` or all."""
        name = self.topics.name(role)
        end = self.client.offsets(name, "last", "read_committed") if end is None else end
        start = {p: self.marks[name].get(p, 0) for p in end}
        batches = TopicRange(self.bootstrap, name, start).batches(isolation, end, FOREVER)
        return [record for batch in batches for record in batch]

    def count(self, role: Role) -> int:
        """Return how many records a topic has visible since the window's start."""
        return len(self.records(role))

    def decoded(self, role: Role) -> list[dict[str, Any]]:
        """Return the window's visible records of an Avro topic, decoded."""
        decoder = RecordDecoder(schema_reader(self.registry_url))
        return [decoder.value(record) for record in self.records(role)]

    def has_open_transaction(self, service: Service) -> bool:
        """Tell whether records of a service wait in an open transaction on its output topic."""
        name = self.topics.name("features" if service == "ingest" else "predictions")
        stable = self.client.offsets(name, "last", "read_committed")
        return self.client.offsets(name, "last", "read_uncommitted") != stable

    def aborted(self, service: Service) -> int:
        """Return how many records of aborted transactions a service's output topic holds."""
        role: Role = "features" if service == "ingest" else "predictions"
        end = self.client.offsets(self.topics.name(role), "last", "read_committed")
        all_records = self.records(role, "read_uncommitted", end)
        return len(all_records) - len(self.records(role, "read_committed", end))

    def report(
        self,
        published: Published | None = None,
        counters: list[Counter] | None = None,
        live: list[tuple[Role, RawRecord]] | None = None,
        skip: tuple[str, ...] = (),
        faults: Iterable[Fault] = (),
    ) -> Report:
        """Read the window and check it."""
        store = Store(self.topics)
        try:
            options = ReadOptions(
                self.bootstrap, self.registry_url, self.marks, timeout_s=READ_TIMEOUT_S
            )
            read_pipeline(store, options)
            if published is not None:
                store.add_expected((p, o, name) for (p, o), name in published.bad.items())
            store.add_counters(counters or [])
            store.add_faults(faults)
            for role, record in live or []:
                store.add_sightings("live", role, [record])
            return check(store, skip=skip)
        finally:
            store.close()


BATCH_ROWS = 5_000


class LiveReader:
    """Follows the output topics of a window in a thread of its own.

    Parameters
    ----------
    run
        The window; reading starts at its marks.
    """

    def __init__(self, run: LedgerRun) -> None:
        self._run = run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._failed: Exception | None = None
        self.seen: list[tuple[Role, RawRecord]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        if error is None:
            assert not self._thread.is_alive(), "the live reader does not stop"
            assert self._failed is None, f"the live reader failed: {self._failed!r}"
            assert self.seen, "the live reader saw nothing"

    def _follow(self) -> None:
        topics = self._run.topics
        role_of = {topics.name(role): role for role in ROLES if role != "events"}
        settings = consumer_config(self._run.bootstrap, "read_committed")
        consumer = Consumer(settings | {"enable.partition.eof": False})
        try:
            consumer.assign(
                [
                    TopicPartition(topic, partition, offset)
                    for topic in role_of
                    for partition, offset in self._run.marks[topic].items()
                ]
            )
            while not self._stop.is_set():
                for message in consumer.consume(BATCH_ROWS, timeout=0.1):
                    error = message.error()
                    if error is None:
                        self.seen.append((role_of[message.topic() or ""], raw_record(message)))
                    elif error.code() not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
                        raise AssertionError(error.str())
        except Exception as exc:  # told by __exit__
            self._failed = exc
        finally:
            consumer.close()


GET_TIMEOUT_S: Final = 10.0
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(url: str) -> bytes:
    """Return the body of an HTTP GET."""
    with urllib.request.urlopen(url, timeout=GET_TIMEOUT_S) as answer:  # noqa: S310 - own stack
        return bytes(answer.read())


def scrape(url: str) -> Figures:
    """Return every sample of a metrics endpoint by name and sorted labels."""
    return parse(get(url))


def parse(exposition: bytes) -> Figures:
    """Return every sample of an exposition by name and sorted labels."""
    found: Figures = {}
    for family in text_string_to_metric_families(exposition.decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(figures: Figures, name: str, **labels: str) -> float:
    """Return the sum of the samples of a name that have the given labels."""
    wanted = set(labels.items())
    return sum(v for (n, found), v in figures.items() if n == name and wanted <= set(found))


def counters(service: Service, topic: str, before: Figures, after: Figures) -> list[Counter]:
    """Return what a service counted of its input topic between two scrapes, for I14."""

    def grown(name: str, **labels: str) -> int:
        return round(
            total(after, name, topic=topic, **labels) - total(before, name, topic=topic, **labels)
        )

    outcomes = {"output": "features" if service == "ingest" else "predicted"}
    found = [Counter(service, "consumed", grown("penstock_records_total"))]
    for name, labels in after:
        named = dict(labels)
        if named.get("topic") != topic:
            continue
        if name == "penstock_records_total" and named["outcome"] != "dead_letter":
            outcome = outcomes.get(named["outcome"], "skipped")
            found.append(Counter(service, outcome, grown(name, outcome=named["outcome"])))
        if name == "penstock_dead_letters_total":
            kind = named["class"]
            found.append(Counter(service, f"dead:{kind}", grown(name, **{"class": kind})))
    return found


def triton_rows(triton_http_url: str) -> int:
    """Return the rows Triton has inferred since its start, by its own statistics."""
    base = triton_http_url if "://" in triton_http_url else f"http://{triton_http_url}"
    answer = json.loads(get(f"{base}/v2/models/stats"))
    return sum(int(model["inference_count"]) for model in answer["model_stats"])
