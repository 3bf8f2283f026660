"""The output side of a loop with delivery ``at_least_once``."""

from __future__ import annotations

from confluent_kafka import KafkaError, Message, TopicPartition
from penstock_schemas.errors import BrokerUnavailable, DeliveryFailed

from penstock_streaming.errors import AbortRequired, OutcomeUnknown, Verdict, verdict
from penstock_streaming.producer import OutputProducer


class FlushingProducer(OutputProducer):
    """Outputs are flushed, then offsets committed: at least once, with no transaction to wait for.

    The first failed delivery is kept and raised by the next `commit`.
    """

    _failed: KafkaError | None = None

    def open(self) -> None:
        """Make a producer."""
        self._failed = None
        self._open_client = self._connect({"on_delivery": self._on_delivery})

    def begin(self) -> None:
        """Do nothing: there is no transaction."""

    def commit(self, ends: list[TopicPartition]) -> None:
        """Flush, then commit.

        Raises
        ------
        AbortRequired
            If the group has moved on: read again.
        OutcomeUnknown
            If not all was delivered: read again with a new producer.
        DeliveryFailed
            If a record can never be delivered.
        """
        left = self._serve(self._client.flush, self._loop.commit_timeout_s)
        if self._failed is not None:
            if verdict(self._failed) is Verdict.UNDELIVERABLE:
                raise DeliveryFailed(f"delivery: {self._failed.name()}: {self._failed.str()}")
            raise OutcomeUnknown(f"delivery: {self._failed.name()}")
        if left:
            raise OutcomeUnknown(f"{left} records are not delivered in time")
        self._fail_points.reach("after_flush")
        self._fail_points.reach("after_offsets")
        self._fail_points.during("during_commit")
        try:
            self._group.commit(ends)
        except BrokerUnavailable as exc:
            raise AbortRequired(str(exc)) from exc

    def abort(self) -> None:
        """Forget what is queued: it will be produced again."""
        self._client.purge()
        self._serve(self._client.flush, 1.0)
        self._failed = None

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        """Keep the first failed delivery."""
        if error is not None and self._failed is None:
            self._failed = error
