"""A read_committed reader that runs while faults happen; what it saw must stay visible."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, TopicPartition
from harness.ledger_run import LedgerRun
from penstock_ledger import RawRecord
from penstock_ledger.records import ROLES, Role
from penstock_ledger.topic_range import consumer_config, raw_record

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
