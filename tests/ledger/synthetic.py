"""Seeded logs as a correct pipeline would leave them, whatever happens to it meanwhile.

Aborted transactions, rebalances that give partitions away and back, dead letters, copies of them,
canaries and changes of their weight, a routing topic that was compacted.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from penstock_ledger import Fault, LedgerTopics, RawRecord
from penstock_ledger.decoding import header_text
from penstock_ledger.records import DEAD_LETTER_HEADERS, DLQ_ATTEMPT, REPLAY_OF, ROLES, Role
from rollouts import SLOWEST_APPLY_MS, STORIES, Story, answering, compacted, rollout
from synthetic_log import TOPICS, SyntheticLog, frame, unframe

INGEST_CLASSES = ("decode", "schema", "rule", "oversize")
INFERENCE_CLASSES = ("shape", "model", "poison")
START_MS = 1_770_000_000_000
FAULT_AFTER_MS = 20_000
Outputs = list[tuple[Role, RawRecord]]


class LogBuilder:
    """Plays producer, ingest, inference and the one who replays, of one seed.

    Parameters
    ----------
    story
        What happens to the model; by chance where it is not given, and then the routing topic may
        be compacted.
    """

    def __init__(
        self,
        seed: int,
        topics: LedgerTopics = TOPICS,
        story: Story | None = None,
        start_ms: int = START_MS,
    ) -> None:
        self.random = random.Random(seed)
        self.topics = topics
        self.log = SyntheticLog(seed)
        self.attempt = 0
        self.start_ms = start_ms
        self.now_ms = start_ms
        self.states = rollout(story or self.random.choice(STORIES), start_ms)
        self.log.routing = list(enumerate(self.states))
        if story is None:
            self.log.routing = compacted(self.states, self.random)
        self._newest = 0
        self._owners: list[int] = []
        self._delays_ms: dict[int, int] = {}

    def build(self) -> SyntheticLog:
        """Return the finished log."""
        for partition in range(3):
            self._owners = []
            self.now_ms = self.start_ms
            self._produce(partition, self.random.randint(40, 70))
            for leave in (False, True):
                self._run(partition, "events", leave)
                self._run(partition, "features", leave)
                if not leave:
                    self._replay(partition)
        self._count()
        self.log.faults = [Fault("the kill", self.start_ms + FAULT_AFTER_MS, 90.0)]
        self.log.live = [
            (role, r)
            for role in ROLES
            for r in self.log.records[role]
            if self.random.random() < 0.3
        ]
        return self.log

    def _produce(self, partition: int, number: int) -> None:
        for role in ROLES:
            self.log.end[role, partition] = self.random.randint(0, 5)
        self.log.start[partition] = self.log.end["events", partition]
        for i in range(number):
            offset = self.log.next_offset("events", partition)
            value: bytes | None = self.random.randbytes(20)
            kind = self.random.random()
            # The first rows are fixed so that every log has something for each mutation.
            if kind < 0.03 or i == 3:
                value = None
            elif kind < 0.13 or i in (5, 6):
                pool = INGEST_CLASSES if i % 2 else INFERENCE_CLASSES
                self.log.expected[partition, offset] = self.random.choice(pool)
            key = f"k{self.random.randrange(6)}".encode() if self.random.random() < 0.97 else None
            headers = (("trace", self.random.randbytes(4)), ("trace", None))[: i % 3]
            self.log.records["events"].append(
                RawRecord(partition, offset, key, value, self.start_ms - 10_000 + i, headers)
            )

    def _replay(self, partition: int) -> None:
        """Append copies of dead letters' events, and of a range."""
        events = self.log.of("events", partition)
        dead = [e for e in events if (partition, e.offset) in self.log.expected]
        first = self.random.randrange(len(events) - 3)
        for event in [*dead[: self.random.randint(2, 4)], *events[first : first + 3]]:
            offset = self.log.next_offset("events", partition)
            place = f"{self.topics.events}/{partition}/{event.offset}".encode()
            headers = (*event.headers, (REPLAY_OF, place))
            kind = self.log.expected.get((partition, event.offset))
            if kind is not None:
                headers = (*headers, (DLQ_ATTEMPT, b"1"))
            # Some replays come after a repair; the first does not, for the mutations.
            if kind is not None and (event is dead[0] or self.random.random() < 0.7):
                self.log.expected[partition, offset] = kind
            self.log.records["events"].append(replace(event, offset=offset, headers=headers))

    def _run(self, partition: int, role: Role, leave: bool) -> None:
        """Consume what is new in a topic, in transactions, some of which abort and are repeated."""
        offsets = self.log.ingest if role == "events" else self.log.inference
        done = offsets.get(partition, 0)
        new = [r for r in self.log.of(role, partition) if r.offset >= done]
        todo = new[: len(new) - self.random.choice([0, 0, 2])] if leave else new
        process = self.ingest_one if role == "events" else self.predict_one
        self._take_over()
        while todo:
            batch, todo = todo[: (size := self.random.randint(1, 12))], todo[size:]
            if self.random.random() < 0.3 or (len(batch) > 1 and not self.log.aborted):
                some = batch[: self.random.randint(1, len(batch))]
                aborted = [output for record in some for output in process(record)]
                self.log.aborted += aborted
                self._end_transaction(partition, aborted)
                self._take_over()
            outputs = [output for record in batch for output in process(record)]
            for out_role, out in outputs:
                self.log.records[out_role].append(out)
            self._end_transaction(partition, outputs)
            offsets[partition] = batch[-1].offset + 1
            if self.random.random() < 0.2:
                self._take_over()

    def _take_over(self) -> None:
        """Give the partition to another attempt, new or one that has had it before."""
        if len(self._owners) > 1 and self.random.random() < 0.5:
            self.attempt = self.random.choice(self._owners)
        else:
            self._newest += 1
            self.attempt = self._newest
            self._owners.append(self.attempt)
        self.now_ms += self.random.randrange(5_000)

    def _end_transaction(self, partition: int, outputs: Outputs) -> None:
        """Write the mark that ends a transaction in each partition that it wrote."""
        for role in {role for role, _ in outputs}:
            self.log.next_offset(role, partition)

    def ingest_one(self, event: RawRecord) -> Outputs:
        self.now_ms += 10
        if event.value is None:
            return []
        origin = (event.partition, event.offset)
        kind = self.log.expected.get(origin)
        if kind in INGEST_CLASSES:
            return [("events_dlq", self._dead_letter("events", event, kind, origin))]
        value = frame("features", self._feature_vector(event))
        offset = self.log.next_offset("features", event.partition)
        written = {"offset": offset, "timestamp_ms": self.now_ms}
        return [("features", replace(event, value=value, headers=(), **written))]

    def _feature_vector(self, event: RawRecord) -> dict[str, Any]:
        place = {"topic": self.topics.events, "partition": event.partition, "offset": event.offset}
        return {
            "event_id": f"e{event.partition}-{event.offset}",
            "entity_key": (event.key or b"").decode(),
            "event_time": event.timestamp_ms,
            "pipeline": "fraud",
            "origin": place,
            "features": [event.offset / 7.0, 1.0],
        }

    def predict_one(self, feature: RawRecord) -> Outputs:
        self.now_ms += self.random.randrange(1_000, 6_000)
        vector = unframe("features", feature.value)
        origin = (vector["origin"]["partition"], vector["origin"]["offset"])
        kind = self.log.expected.get(origin)
        if kind is not None:
            return [("features_dlq", self._dead_letter("features", feature, kind, origin))]
        vector.pop("entity_key")
        version, variant = self._answer(feature.key)
        is_late = self.random.random() < 0.05 or feature.offset % 11 == 0
        score = self.random.random()
        prediction = vector | {
            "predicted_at": self.now_ms,
            "model_name": "fraud",
            "model_version": version,
            "variant": variant,
            "scores": [] if is_late else [score],
            "decision": not is_late and score >= 0.5,
            "threshold": 0.5,
            "attempt": f"attempt-{self.attempt}",
            "outcome": "expired" if is_late else "predicted",
        }
        offset = self.log.next_offset("predictions", feature.partition)
        value = frame("predictions", prediction)
        written = {"offset": offset, "timestamp_ms": self.now_ms}
        return [("predictions", replace(feature, value=value, **written))]

    def _answer(self, key: bytes | None) -> tuple[str, str]:
        """Return who answers: each attempt obeys a new routing state after a time of its own."""
        delay_ms = self._delays_ms.setdefault(self.attempt, self.random.randrange(SLOWEST_APPLY_MS))
        in_force = [s for s in self.states if s.updated_at <= self.now_ms - delay_ms]
        return answering((in_force or self.states[:1])[-1], key)

    def _dead_letter(
        self, role: Role, source: RawRecord, kind: str, origin: tuple[int, int]
    ) -> RawRecord:
        dead: Role = "events_dlq" if role == "events" else "features_dlq"
        texts = {
            "__streams.errors.exception": "DecodeError",
            "__streams.errors.message": "not what it says",
            "__streams.errors.topic": self.topics.name(role),
            "__streams.errors.partition": str(source.partition),
            "__streams.errors.offset": str(source.offset),
            "dlq.service": "ingest" if role == "events" else "inference",
            "dlq.stage": "decode" if role == "events" else "infer",
            "dlq.class": kind,
            DLQ_ATTEMPT: str(int(header_text(source.headers, DLQ_ATTEMPT) or 0) + 1),
            "dlq.first_failed_at": "2026-01-01T00:00:00Z",
            "dlq.origin": f"{self.topics.events}/{origin[0]}/{origin[1]}",
        }
        kept = tuple(h for h in source.headers if h[0] not in DEAD_LETTER_HEADERS)
        added = tuple((name, text.encode()) for name, text in texts.items())
        offset = self.log.next_offset(dead, source.partition)
        return replace(source, offset=offset, headers=kept + added)

    def _count(self) -> None:
        log, counters = self.log, self.log.counters
        below = [e for e in log.records["events"] if e.offset < log.ingest[e.partition]]
        counters["ingest", "consumed"] = len(below)
        counters["ingest", "skipped"] = sum(e.value is None for e in below)
        counters["ingest", "features"] = len(log.records["features"])
        counters["inference", "consumed"] = sum(
            f.offset < log.inference[f.partition] for f in log.records["features"]
        )
        values = [unframe("predictions", r.value) for r in log.records["predictions"]]
        counters["inference", "predicted"] = len(values)
        counters["inference", "expired"] = sum(v["outcome"] == "expired" for v in values)
        for service, role in (("ingest", "events_dlq"), ("inference", "features_dlq")):
            for r in log.records[role]:  # type: ignore[index]
                kind = dict(r.headers)["dlq.class"].decode()  # type: ignore[union-attr]
                counters[service, f"dead:{kind}"] = counters.get((service, f"dead:{kind}"), 0) + 1


def build(seed: int, story: Story | None = None) -> SyntheticLog:
    """Return the clean log of a seed."""
    return LogBuilder(seed, story=story).build()
