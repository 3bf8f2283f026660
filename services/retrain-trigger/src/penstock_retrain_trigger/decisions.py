"""The ledger of one pipeline, kept in step with its topic, and the decisions written to it.

A decision follows from the topic read to its end, is committed to the topic, and only then is
folded: a process that was killed at any point leaves nothing that is known here only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from penstock_pipelines.model import Retrain
from penstock_schemas.errors import RecordError
from penstock_schemas.records import RetrainEvent
from penstock_schemas.retrain_requests import ACCEPTED, Ledger, Request

from penstock_retrain_trigger.metrics import TriggerMetrics
from penstock_retrain_trigger.policy import decide
from penstock_retrain_trigger.retrain_log import RetrainLog

LOG = logging.getLogger(__name__)
ACTOR: Final = "retrain-trigger"


def wall_clock_ms() -> int:
    """Return milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


class Decisions:
    """Ledger and writer of one pipeline; to be used on one event loop.

    Parameters
    ----------
    now_ms
        The clock; a test gives its own.
    """

    def __init__(
        self,
        log: RetrainLog,
        policy: Retrain,
        metrics: TriggerMetrics,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.ledger = Ledger()
        self.now_ms = now_ms
        self._log = log
        self._policy = policy
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._unreadable: set[int] = set()
        metrics.watch(self.ledger)

    async def open(self) -> None:
        """Fence earlier writers and fold the whole topic, once; again after a failed write.

        Raises
        ------
        RetryableError
            To be tried again.
        FatalError
            If another process decides, or broker or registry refuse for good.
        """
        if not self._log.is_open:
            await self._log.open()
            await self.refresh()

    async def refresh(self) -> None:
        """Fold what has been committed until now; errors as `open`."""
        await self._log.read(self._fold, self._pass_over)

    async def take(self, offset: int, value: bytes | None) -> None:
        """Fold a record that the consumer has brought; an unreadable one is passed over.

        Raises
        ------
        RegistryUnavailable
            If its schema cannot be told yet.
        """
        try:
            event = await self._log.decode(value)
        except RecordError as exc:
            self._pass_over(offset, exc)
        else:
            self._fold(offset, event)

    async def decide(self) -> None:
        """Write a decision about every request that has none; errors as `open`."""
        while self.ledger.undecided():
            await self.write(self._next_decision)

    async def write(self, make: Callable[[], RetrainEvent | None]) -> None:
        """Write the event that follows from the ledger; errors as `open`.

        Parameters
        ----------
        make
            Called with the topic folded; returns None if there is nothing to write any more.
        """
        async with self._lock:
            await self.open()
            event = make()
            if event is None or self.ledger.holds(event):
                return
            self._fold(await self._log.write(event), event)
            LOG.info(
                "request %s is %s%s",
                event.request_id,
                event.state,
                f": {event.reason}" if event.reason else "",
            )

    async def close(self) -> None:
        """Give the producer back."""
        await self._log.close()

    def _next_decision(self) -> RetrainEvent | None:
        undecided = self.ledger.undecided()
        if not undecided or undecided[0].requested is None:
            return None
        request = undecided[0].requested.event
        now_ms = self.now_ms()
        decision = decide(request, self.ledger, self._policy, now_ms)
        return request.followed_by(
            decision.state,
            now_ms,
            actor=ACTOR,
            cause_ids=request.cause_ids,
            reason=decision.reason,
            job_id=request.request_id if decision.state == ACCEPTED else "",
        )

    def follow(self, request: Request, state: str, **facts: str) -> RetrainEvent | None:
        """Return the next event of a request that is in flight; None if it no longer is."""
        decision = request.decision
        if decision is None or not request.is_in_flight:
            return None
        return decision.event.followed_by(state, self.now_ms(), actor=ACTOR, **facts)

    def _fold(self, offset: int, event: RetrainEvent) -> None:
        if self.ledger.fold(event, offset):
            self._metrics.event(event)

    def _pass_over(self, offset: int, error: RecordError) -> None:
        if offset in self._unreadable:  # it comes by the start's fold and by the consumer
            return
        self._unreadable.add(offset)
        self._metrics.unreadable.inc()
        LOG.error("offset %s of %s is passed over: %s", offset, self._log.topic, error)
