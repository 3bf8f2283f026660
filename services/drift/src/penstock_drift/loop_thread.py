"""One Kafka loop on a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from penstock_schemas.errors import FatalError, RetryableError
from penstock_streaming.garbage import collect_seldom
from penstock_streaming.processor import Processor
from penstock_streaming.timing import Deadline

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The process was told to stop before its loop had started."""


class LoopThread:
    """Builds a loop, which may have to wait for others to start, and runs it.

    Parameters
    ----------
    name
        Of the loop.
    build
        Returns it; tried again while it raises RetryableError.
    stop
        Set when the process should end; set by this thread when its loop fails.
    start_timeout_s, stuck_after_s
        From the settings, seconds.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], Processor],
        stop: threading.Event,
        *,
        start_timeout_s: float,
        stuck_after_s: float,
    ) -> None:
        self._build = build
        self._stop = stop
        self._start_timeout_s = start_timeout_s
        self._stuck_after_s = stuck_after_s
        self._processor: Processor | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name)

    @property
    def is_ready(self) -> bool:
        """Tell whether the loop can work."""
        return self._processor is not None and self._processor.ready

    @property
    def is_live(self) -> bool:
        """Tell whether the loop has turned lately, or is still starting."""
        if self.error is not None:
            return False
        return self._processor is None or self._processor.heartbeat_age_s < self._stuck_after_s

    @property
    def has_failed(self) -> bool:
        """Tell whether it has ended other than by being stopped, or has not ended."""
        is_clean = self.error is None or isinstance(self.error, Stopped)
        return self.thread.is_alive() or not is_clean

    def stop(self) -> None:
        """Let the loop drain; returns at once."""
        if self._processor is not None:
            self._processor.stop()

    def _run(self) -> None:
        try:
            processor = self._wait_for_build()
            self._processor = processor
            if not self._stop.is_set():
                collect_seldom()
                processor.run()
        except BaseException as exc:
            self.error = exc
            if not isinstance(exc, Stopped):
                logger.exception("loop %s failed", self.thread.name)
        finally:
            self._stop.set()

    def _wait_for_build(self) -> Processor:
        """Build the loop once what it needs has started."""
        deadline = Deadline(self._start_timeout_s)
        while True:
            try:
                return self._build()
            except RetryableError as exc:
                if deadline.expired:
                    raise FatalError(f"gave up waiting at the start: {exc}") from exc
                logger.info("waiting at the start: %s", exc)
                if self._stop.wait(min(exc.retry_after_s, deadline.remaining_s)):
                    raise Stopped from exc
