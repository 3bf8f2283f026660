"""A window of a pipeline's log, from now on, with what a test published in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from harness.producer_app import Published
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
from penstock_ledger.records import Role, Service
from penstock_ledger.topic_range import Isolation, TopicRange

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
