"""Writing the topic that orders routers what to serve: compare and set.

Writers take turns by fencing: each write starts a producer with the pipeline's one transactional
id, which ends what a rival has open, then reads to the end of the topic, and only then decides.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaException, Producer
from penstock_schemas.codec import encode_one
from penstock_schemas.errors import BrokerUnavailable, ConfigError, FatalError
from penstock_schemas.records import RoutingState

from penstock_streaming.deadline import Deadline
from penstock_streaming.errors import (
    TransactionClass,
    Verdict,
    error_of,
    transaction_class,
    verdict,
)
from penstock_streaming.routing_reader import PARTITION, RoutingReader
from penstock_streaming.settings import LoopSettings

LOG = logging.getLogger(__name__)
Make = Callable[[RoutingState | None], RoutingState]
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 4.0


class RoutingTopic(RoutingReader):
    """The routing states of one pipeline, for those who decide them; arguments as the reader's."""

    def write(self, make: Make, timeout_s: float) -> RoutingState:
        """Compare and set: make the next state from the one in force, and write it.

        A lost race or an unknown outcome starts again from the then latest state, so ``make`` may
        be called several times.

        Parameters
        ----------
        make
            Gets the state in force, returns the next with the revision one higher; returning the
            same object writes nothing.

        Returns
        -------
        The state in force afterwards.

        Raises
        ------
        BrokerUnavailable
            If it is not written in time.
        RegistryUnavailable
            If the registry does not answer.
        FatalError
            If ``make`` returns a wrong revision, or the broker refuses for good.
        """
        deadline = Deadline(timeout_s)
        schema_id = self._registry.register(f"{self._topic}-value", self._schema)
        attempted: RoutingState | None = None
        longest_pause_s = _FIRST_PAUSE_S
        while not deadline.expired:
            producer = self._producer()
            try:
                producer.init_transactions(max(0.1, deadline.remaining_s))
                current = self.latest(max(0.1, deadline.remaining_s))
                if attempted is not None and current == attempted:
                    return attempted  # it was written after all
                state = make(current)
                if state is current:
                    return state
                _check_next(current, state)
                attempted = state
                self._send(producer, encode_one(self._schema, schema_id, state.to_dict()), deadline)
            except KafkaException as exc:
                _again_or_raise(exc, self._topic)
            else:
                return state
            # Rivals that start again at once would fence each other for ever.
            pause_s = random.uniform(0.0, longest_pause_s)  # noqa: S311 - no secret
            time.sleep(min(pause_s, deadline.remaining_s))
            longest_pause_s = min(2 * longest_pause_s, _LONGEST_PAUSE_S)
        raise BrokerUnavailable(f"{self._topic}: not written in {timeout_s:.0f} s")

    def _producer(self) -> Producer:
        config: dict[str, Any] = self._kafka.producer_config(
            LoopSettings(), f"penstock-routing-{self._pipeline}"
        )
        return Producer(config)

    def _send(self, producer: Producer, value: bytes, deadline: Deadline) -> None:
        producer.begin_transaction()
        producer.produce(self._topic, value, self._pipeline.encode(), PARTITION)
        while True:
            try:
                return producer.commit_transaction(max(0.1, deadline.remaining_s))
            except KafkaException as exc:
                retriable = transaction_class(error_of(exc)) is TransactionClass.RETRIABLE
                if not retriable or deadline.expired:
                    raise


def _check_next(current: RoutingState | None, state: RoutingState) -> None:
    expected = 1 if current is None else current.revision + 1
    if state.revision != expected:
        raise FatalError(f"routing state: expected revision {expected}, got {state.revision}")
    serving = sum(v.weight for v in state.versions)
    if state.versions and serving != 100:
        raise FatalError(f"routing state: expected weights of 100 in all, got {serving}")


def _again_or_raise(exc: KafkaException, topic: str) -> None:
    """Return if the write may be tried again with a new producer; raise if it never succeeds."""
    error = error_of(exc)
    if verdict(error) in (Verdict.CONFIG, Verdict.UNDELIVERABLE):
        raise ConfigError(f"writing {topic}: {error.name()}: {error.str()}") from exc
    LOG.warning("writing %s: %s; once more", topic, error.name())
