"""What the loop does once a second: gauges, settings that changed, positions while idle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from penstock_streaming.lag import Backlog
from penstock_streaming.places import TopicIdentity
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
    identity
        Of the input topic.
    retune
        Where settings may change while the loop runs: those of `LoopSettings.retuned`.

    Attributes
    ----------
    backlog
        What lay before this member the last time.
    """

    def __init__(
        self,
        parts: LoopParts,
        recovery: Recovery,
        identity: TopicIdentity,
        retune: Retune | None,
    ) -> None:
        self._parts = parts
        self._recovery = recovery
        self._identity = identity
        self._retune = retune
        self._due_at = 0.0
        self._closed: set[int] = set()
        self.backlog: Backlog = parts.consumer.lag.backlog(())

    @property
    def is_idle(self) -> bool:
        """Tell whether all that the consumer has returned is committed."""
        parts = self._parts
        is_up = parts.consumer.has_joined and not self._recovery.is_needed
        return is_up and not parts.in_flight and not parts.checkpoint.is_open

    def keep(self, now_s: float) -> None:
        """Do all of it if a second has passed.

        Raises
        ------
        DataGap
            If the topic is another one of the same name.
        """
        if now_s < self._due_at:
            return
        self._due_at = now_s + EVERY_S
        if self._retune is not None:
            self._take_settings(self._retune())
        self._export()
        self._identity.check(self._parts.consumer.places.reached(self._parts.consumer.gates.owned))
        if self.is_idle:
            # Past control records, so that the lag gets to zero.
            self._parts.checkpoint.step_over()

    def close(self) -> None:
        """Drop what it asks."""
        self._identity.close()

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
            self._parts.consumer.gates.unbar(opened)

    def _export(self) -> None:
        parts = self._parts
        metrics, topic = parts.context.metrics, parts.context.topic
        consumer, is_out = parts.consumer, self._recovery.outage.is_active
        consumer.lag.export(consumer.gates.owned, metrics)
        found = consumer.lag.backlog(consumer.gates.owned)
        self.backlog = replace(found, paused=is_out or bool(consumer.gates.barred))
        metrics.in_flight.labels(topic).set(len(parts.in_flight))
        metrics.breaker_open.labels(topic).set(is_out)
        self._closed |= consumer.gates.barred
        for partition in self._closed:
            gauge = metrics.dead_letter_breaker.labels(topic, str(partition))
            gauge.set(partition in consumer.gates.barred)
        self._closed &= consumer.gates.barred
