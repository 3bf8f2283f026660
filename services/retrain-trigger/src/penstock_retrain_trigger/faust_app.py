"""Faust made to fit: it reads committed records only, and leaves nothing on disk."""

from __future__ import annotations

from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver


class _ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc] # Faust has no types
    """Faust reads what is committed only under its own exactly_once; we want nothing else of it."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        self.consumer.in_transaction = True
        try:
            return super()._create_worker_consumer(transport)
        finally:
            self.consumer.in_transaction = False


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> Any:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class ControlApp(faust.App):  # type: ignore[misc]
    """A Faust app that reads committed records and leaves nothing on disk."""

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Make no data directory: there are no tables."""

    def assigned_topics(self) -> set[str]:
        """Return the topics that are read now; none during a rebalance."""
        if self.rebalancing or not self.started:
            return set()
        return {partition.topic for partition in self.consumer.assignment()}
