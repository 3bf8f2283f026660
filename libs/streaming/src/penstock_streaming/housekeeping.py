"""What the loop does once a second: gauges, settings that changed, positions while idle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from penstock_streaming.lag import Backlog
from penstock_streaming.recovery import LoopParts, Recovery
from penstock_streaming.settings import LoopSettings

logger = logging.getLogger(__name__)

EVERY_S = 1.0

Retune = Callable[[], LoopSettings]
"""Returns the settings as they are to be now; asked once a second, so it must not wait."""


class Housekeeping:
    """Keeps what can be a second late.

    Parameters
    ----------
    parts
        Of the loop.
    recovery
        Tells of outages.
    retune
        Where settings may change while the loop runs: those of `LoopSettings.retuned`.

    Attributes
    ----------
    backlog
        What lay before this member the last time.
    """

    def __init__(self, parts: LoopParts, recovery: Recovery, retune: Retune | None) -> None:
        self._parts = parts
        self._recovery = recovery
        self._retune = retune
        self._due_at = 0.0
        self._closed: set[int] = set()
        self.backlog: Backlog = parts.consumer.lag.backlog(())

    def keep(self, now_s: float) -> None:
        """Do all of it if a second has passed."""
        if now_s < self._due_at:
            return
        self._due_at = now_s + EVERY_S
        if self._retune is not None:
            self._take_settings(self._retune())
        self._export()
        parts = self._parts
        is_idle = parts.consumer.has_joined and not self._recovery.is_needed
        if is_idle and not parts.in_flight and not parts.checkpoint.is_open:
            # Past control records, so that the lag gets to zero.
            parts.checkpoint.step_over()

    def _take_settings(self, wanted: LoopSettings) -> None:
        context = self._parts.context
        loop = context.loop.retuned(wanted)
        if loop == context.loop:
            return
        context.loop = loop
        logger.info("%s: goes on with %s", context.topic, loop.model_dump(include=set(loop.LIVE)))
        opened = self._parts.checkpoint.breaker.tune(loop.breaker_limits)
        if opened:
            logger.warning(
                "%s: dead-letter breaker: partitions %s go on", context.topic, sorted(opened)
            )
            self._parts.consumer.unbar(opened)

    def _export(self) -> None:
        parts = self._parts
        metrics, topic = parts.context.metrics, parts.context.topic
        consumer, is_out = parts.consumer, self._recovery.outage.is_active
        consumer.lag.export(consumer.owned, metrics)
        found = consumer.lag.backlog(consumer.owned)
        self.backlog = replace(found, paused=is_out or bool(consumer.barred))
        metrics.in_flight.labels(topic).set(len(parts.in_flight))
        metrics.breaker_open.labels(topic).set(is_out)
        self._closed |= consumer.barred
        for partition in self._closed:
            gauge = metrics.dead_letter_breaker.labels(topic, str(partition))
            gauge.set(partition in consumer.barred)
        self._closed &= consumer.barred
