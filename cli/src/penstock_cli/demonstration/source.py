"""The producer application of the demo: the simulator in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Final

from penstock_schemas.errors import BrokerUnavailable, FatalError
from penstock_simulator.generators import SimulatedBatch
from penstock_simulator.simulation import Progress, SimulationReport, Watch

STOP_WITHIN_S: Final = 90.0

Publish = Callable[[Progress, Watch, threading.Event], SimulationReport]
"""Publishes events until it is stopped; tells how many, and hands out each batch before it."""


class EventSource:
    """Publishes until it is stopped; a context manager.

    Parameters
    ----------
    publish
        Runs in the thread.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._stop = threading.Event()
        self._truth: SimpleQueue[SimulatedBatch] = SimpleQueue()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._done: Future[SimulationReport] | None = None
        self.sent = 0

    def __enter__(self) -> EventSource:
        self._done = self._pool.submit(self._publish, self._count, self._truth.put, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    def truth(self) -> list[SimulatedBatch]:
        """Return the batches handed out since the last call, all sent later than that."""
        found = []
        while True:
            try:
                found.append(self._truth.get_nowait())
            except Empty:
                return found

    def check(self) -> None:
        """Make sure that events still flow.

        Raises
        ------
        FatalError
            If they have come to their end.
        PenstockError
            What ended them.
        """
        if self._done is not None and self._done.done():
            self._done.result()
            raise FatalError("the events have come to their end before the loop has closed")

    def stop(self) -> SimulationReport:
        """Stop, with the labels of all events sent, and return what was published.

        Raises
        ------
        BrokerUnavailable
            If it does not end in time.
        """
        if self._done is None:
            return SimulationReport()
        self._stop.set()
        try:
            return self._done.result(STOP_WITHIN_S)
        except TimeoutError as exc:
            raise BrokerUnavailable(f"events: not stopped within {STOP_WITHIN_S:.0f} s") from exc

    def _count(self, sent: int) -> None:
        self.sent = sent
