"""What a consumer's client returns among the records: notices, most of which pass by themselves."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError, Message

from penstock_streaming.errors import Verdict, translated, verdict
from penstock_streaming.places import Places

logger = logging.getLogger(__name__)


def without_notices(messages: list[Message], topic: str, places: Places) -> list[Message]:
    """Return the records alone.

    Raises
    ------
    DataGap
        If records are gone before they were read.
    FatalError
        If no later poll can cure what a notice tells.
    """
    for message in messages:
        error = message.error()
        if error is None:
            continue
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
            offset = message.offset()
            if offset is None or offset < 0:
                continue  # nothing is committed: `places.begin` sees to it
            raise places.gap(message.partition() or 0, offset)
        if verdict(error) not in (Verdict.RETRY, Verdict.MEMBERSHIP) or error.fatal():
            raise translated(error, f"reading {topic}")
        logger.warning("reading %s: %s", topic, error.name())
    return [m for m in messages if m.error() is None]
