"""What comes into the loop: records, for as long as they may be waited for, and rebalances."""

from __future__ import annotations

import logging

from confluent_kafka import Message

from penstock_streaming.recovery import LoopParts, Recovery

logger = logging.getLogger(__name__)

_IN_FLIGHT_POLL_S = 0.001
_HEAD_WAIT_S = 0.02


class Intake:
    """Polls, and does what the group asks for in between.

    Parameters
    ----------
    parts
        Of the loop.
    recovery
        Takes over partitions and gives them up.
    """

    def __init__(self, parts: LoopParts, recovery: Recovery) -> None:
        self._parts = parts
        self._recovery = recovery

    def messages(self) -> list[Message]:
        """Return what has arrived of partitions that are, and stay, this member's.

        Raises
        ------
        PenstockError
            What `InputConsumer.fetch` raises, and a handler that gives up its state.
        """
        return self._serve_rebalances(self._fetch())

    def _fetch(self) -> list[Message]:
        """Poll for as long as there is nothing better to do."""
        parts = self._parts
        work, gates = parts.in_flight, parts.consumer.gates
        if not work.is_full or gates.held:
            return parts.consumer.fetch(parts.context.loop.max_batch_rows, self._poll_s())
        work.await_head(min(_HEAD_WAIT_S, parts.checkpoint.due_in_s))
        if work.is_stalled:
            # The group must go on being served, and only a consumer that is paused can be polled
            # without taking more records.
            gates.hold()
        return []

    def _poll_s(self) -> float:
        parts = self._parts
        if parts.in_flight.is_flying:
            return _IN_FLIGHT_POLL_S
        wait_s = min(parts.context.loop.idle_poll_s, max(0.0, parts.checkpoint.due_in_s))
        outage = self._recovery.outage
        return min(wait_s, outage.remaining_s) if outage.is_active else wait_s

    def _serve_rebalances(self, messages: list[Message]) -> list[Message]:
        """Do what the callbacks inside the last fetch have noted; return what is still ours."""
        parts, topic = self._parts, self._parts.context.topic
        for event in parts.consumer.take_events():
            parts.context.metrics.rebalances.labels(topic, event.kind).inc()
            logger.info("%s: %s %s", topic, event.kind, event.partitions)
            if event.kind == "assigned":
                parts.in_flight.take_over()
                self._recovery.steps.assigned(event.partitions)
            elif event.partitions:
                messages = self._give_up(set(event.partitions), messages)
        return messages

    def _give_up(self, gone: set[int], messages: list[Message]) -> list[Message]:
        is_clean = not self._parts.in_flight and not self._parts.checkpoint.is_open
        try:
            if not is_clean:
                self._recovery.roll_back()
        finally:
            self._recovery.give_up(gone)
        return [m for m in messages if is_clean and m.partition() not in gone]
