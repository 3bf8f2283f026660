"""How far a consumer group is behind, asked of the broker from outside."""

from __future__ import annotations

import logging
from typing import Any, Final

_SILENT: Final = logging.getLogger("penstock_stack.group_lag.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def group_lag(bootstrap_servers: str, group: str, topic: str, timeout_s: float) -> int | None:
    """Return the records between a group's committed offsets and the last stable ones.

    A partition without a committed offset counts from its beginning.

    Returns
    -------
    None where no broker answers in time or there is no such topic.
    """
    from confluent_kafka import IsolationLevel, KafkaException
    from confluent_kafka import TopicPartition as Partition
    from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

    settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "logger": _SILENT}
    admin = AdminClient(settings)
    try:
        found = admin.list_topics(topic, timeout=timeout_s).topics[topic]
        partitions = [Partition(topic, number) for number in found.partitions]
        if not partitions:
            return None

        def offsets(spec: Any) -> dict[int, int]:
            futures = admin.list_offsets(
                dict.fromkeys(partitions, spec),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=timeout_s,
            )
            return {p.partition: f.result(timeout_s).offset for p, f in futures.items()}

        done = _committed({**settings, "group.id": group}, partitions, timeout_s)
        begin: dict[int, int] = {}
        if len(done) < len(partitions):
            begin = offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        end: dict[int, int] = offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]
    except (KafkaException, TimeoutError):
        return None
    behind: list[int] = [end[number] - done.get(number, begin.get(number, 0)) for number in end]
    return sum(max(0, records) for records in behind)


def _committed(settings: dict[str, Any], partitions: list[Any], timeout_s: float) -> dict[int, int]:
    """Return a group's offsets.

    Not by the admin client: librdkafka 2.16 dies of SIGSEGV in its list_consumer_group_offsets when
    the group's coordinator moves meanwhile.
    """
    from confluent_kafka import Consumer

    consumer = Consumer({**settings, "enable.auto.commit": False})
    try:
        found = consumer.committed(partitions, timeout_s)
    finally:
        consumer.close()
    return {p.partition: p.offset for p in found if p.error is None and p.offset >= 0}
