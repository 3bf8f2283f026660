"""A Kafka loop on a thread of its own: built once what it needs is there, run until told to stop.

The loop is duck-typed, so that this package does not import the loop's.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from penstock_schemas.errors import FatalError, RetryableError

from penstock_service.health import serve_health

logger = logging.getLogger(__name__)

GC_THRESHOLDS: Final = (100_000, 20, 100)
"""Allocations before a young collection, and young ones before an older generation's."""


LEAVE_S: Final = 4.0
"""Time beyond its drain in which a loop leaves its group and closes its clients, seconds."""


class Loop(Protocol):
    """What the thread asks of a loop."""

    @property
    def ready(self) -> bool:
        """Whether the loop can work."""

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the loop last turned."""

    def stop(self) -> None:
        """Ask the loop to end; returns at once."""

    def run(self) -> None:
        """Run until `stop`."""


class StoppedBeforeStart(Exception):
    """The process was told to stop before its loop had started."""


class LoopThread:
    """Builds a loop, which may have to wait for others to start, and runs it.

    Parameters
    ----------
    name
        Of the loop.
    build
        Returns it; called again while it raises RetryableError.
    stop
        Set when the process should end; set by this thread when its loop ends.
    start_timeout_s
        Time for ``build`` to succeed, seconds.
    stuck_after_s
        Time without a turn after which the loop no longer counts as live, seconds.
    on_end
        Called when the loop has ended, or could not start.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Loop],
        stop: threading.Event,
        *,
        start_timeout_s: float,
        stuck_after_s: float,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        self._build = build
        self._stop = stop
        self._start_timeout_s = start_timeout_s
        self._stuck_after_s = stuck_after_s
        self._on_end = on_end
        self._loop: Loop | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name)

    @property
    def is_ready(self) -> bool:
        """Whether the loop can work."""
        return self._loop is not None and self._loop.ready

    @property
    def is_live(self) -> bool:
        """Whether the loop has turned lately, or is still starting."""
        if self.error is not None:
            return False
        return self._loop is None or self._loop.heartbeat_age_s < self._stuck_after_s

    @property
    def has_failed(self) -> bool:
        """Whether it has ended other than by being stopped, or has not ended."""
        is_clean = self.error is None or isinstance(self.error, StoppedBeforeStart)
        return self.thread.is_alive() or not is_clean

    def stop(self) -> None:
        """Let the loop drain; returns at once."""
        if self._loop is not None:
            self._loop.stop()

    def _run(self) -> None:
        try:
            self._loop = self._wait_for_build()
            if not self._stop.is_set():
                collect_seldom()
                self._loop.run()
        except BaseException as exc:
            self.error = exc
            if not isinstance(exc, StoppedBeforeStart):
                logger.exception("loop %s failed", self.thread.name)
        finally:
            if self._on_end is not None:
                self._on_end()
            self._stop.set()

    def _wait_for_build(self) -> Loop:
        """Build the loop, again while what it needs is still starting."""
        give_up_at = time.monotonic() + self._start_timeout_s
        while True:
            try:
                return self._build()
            except RetryableError as exc:
                left_s = give_up_at - time.monotonic()
                if left_s <= 0.0:
                    raise FatalError(f"gave up waiting at the start: {exc}") from exc
                logger.info("waiting at the start: %s", exc)
                if self._stop.wait(min(exc.retry_after_s, left_s)):
                    raise StoppedBeforeStart from exc


def collect_seldom() -> None:
    """Look for reference cycles seldom, and never among the objects that exist by now.

    The client's messages are tracked by the collector, so that by Python's own thresholds every
    batch starts several collections, which find nothing: a fifth of the loop's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def run_loops(
    threads: Sequence[LoopThread],
    stop: threading.Event,
    *,
    host: str,
    port: int,
    metrics: Callable[[], bytes],
    drain_timeout_s: float,
) -> int:
    """Run the loops of a service, with its probes and metrics, until ``stop`` is set.

    Parameters
    ----------
    host, port, metrics
        As `serve_health` takes them.
    drain_timeout_s
        Time of a loop to finish and commit, seconds.

    Returns
    -------
    The exit code: 0 after a stop, 1 if a loop failed.
    """
    for each in threads:
        each.thread.start()
    with serve_health(
        host,
        port,
        live=lambda: all(each.is_live for each in threads),
        ready=lambda: all(each.is_ready for each in threads),
        metrics=metrics,
    ):
        stop.wait()
        for each in threads:
            each.stop()
        for each in threads:
            each.thread.join(drain_timeout_s + LEAVE_S)
    return 1 if any(each.has_failed for each in threads) else 0
