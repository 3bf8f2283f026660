"""A window of a pipeline's log, from now on, with what a test published in it."""

from __future__ import annotations

from harness.producer_app import Published
from harness.waiting import eventually
from penstock_ledger import Counter, LedgerTopics, ReadOptions, Report, Store, check
from penstock_ledger.reader import LogClient, TopicRange, read_pipeline
from penstock_ledger.records import Service


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
        end_s = 1e18
        batches = TopicRange(self.bootstrap, name, start).batches("read_committed", end, end_s)
        return sum(len(batch) for batch in batches)

    def done(self, service: Service) -> int:
        """Return how far a service has committed since the window's start, in offsets."""
        name = self.topics.name(self.topics.input_role(service))
        committed = self.client.committed(self.topics.group(service), name)
        return sum(max(0, o - self.marks[name].get(p, 0)) for p, o in committed.items())

    def drain(self, deadline_s: float) -> None:
        """Wait until both hops have nothing left."""
        eventually(lambda: self.backlog("ingest") == 0, deadline_s, "ingest drained")
        eventually(lambda: self.backlog("inference") == 0, deadline_s, "inference drained")

    def count(self, role: str) -> int:
        """Return how many records a topic has visible since the window's start."""
        name = self.topics.name(role)  # type: ignore[arg-type]
        end = self.client.offsets(name, "last", "read_committed")
        start = {p: self.marks[name].get(p, 0) for p in end}
        batches = TopicRange(self.bootstrap, name, start).batches("read_committed", end, 1e18)
        return sum(len(batch) for batch in batches)

    def report(
        self,
        published: Published | None = None,
        counters: list[Counter] | None = None,
        skip: tuple[str, ...] = (),
    ) -> Report:
        """Read the window and check it."""
        store = Store(self.topics)
        try:
            options = ReadOptions(self.bootstrap, self.registry_url, self.marks)
            read_pipeline(store, options)
            if published is not None:
                store.add_expected((p, o, name) for (p, o), name in published.bad.items())
            store.add_counters(counters or [])
            return check(store, skip=skip)
        finally:
            store.close()
