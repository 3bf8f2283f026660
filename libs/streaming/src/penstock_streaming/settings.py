"""How Kafka is reached and how the loop turns: the only place with librdkafka's dotted keys.

Durations are seconds here and milliseconds only in the dictionaries handed to the client. Defaults
that differ from librdkafka's carry the reason.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from penstock_schemas.topics import DEAD_LETTER_HEADROOM_BYTES, EVENTS_MAX_BYTES
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr

from penstock_streaming.dead_letters import BreakerLimits

LOGGER_NAME = "penstock.kafka"
CLIENT_LOG_WINDOW_S = 30.0

MESSAGE_MAX_BYTES = EVENTS_MAX_BYTES + DEAD_LETTER_HEADROOM_BYTES
"""Largest message a producer of ours sends: a dead letter of the largest event."""
SHORT_LINGER_S = 0.001
"""Longest wait for a producer batch to fill where it is part of a latency, seconds."""
TRANSACTION_RETRY_MS = 10
"""First wait before a request is sent again; it doubles up to a second. The coordinator refuses a
request while it writes down the one before, a matter of milliseconds: librdkafka's 100 ms would be
added to every such commit."""


def client_and_facility(record: logging.LogRecord) -> object:
    """Return the client's name and librdkafka's facility, such as ``FAIL``."""
    return record.args[:2] if isinstance(record.args, tuple) else None


class OncePerWindow(logging.Filter):
    """Pass a line when its kind was last seen longer ago than a window; critical lines always.

    Parameters
    ----------
    kind
        Returns what makes a line the same as another one; None lets it pass.
    window_s
        Seconds between two lines of a kind.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        kind: Callable[[logging.LogRecord], object] = client_and_facility,
        window_s: float = CLIENT_LOG_WINDOW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._kind = kind
        self._window_s = window_s
        self._clock = clock
        self._last: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line passes."""
        kind = self._kind(record)
        if record.levelno >= logging.CRITICAL or kind is None:
            return True
        now = self._clock()
        last = self._last.get(kind)
        if last is not None and now - last < self._window_s:
            return False
        self._last[kind] = now
        return True


def client_logger() -> logging.Logger:
    """Return the logger handed to every Kafka client, with the filter installed once."""
    logger = logging.getLogger(LOGGER_NAME)
    if not any(isinstance(f, OncePerWindow) for f in logger.filters):
        logger.addFilter(OncePerWindow())
    return logger


class KafkaSettings(BaseModel):
    """Connection to a Kafka cluster. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = "127.0.0.1:9092"
    """Comma-separated host:port."""
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """Transport and authentication."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """Needed with a sasl protocol."""
    sasl_username: str | None = None
    """User of the SASL mechanism."""
    sasl_password: SecretStr | None = None
    """Password of the SASL mechanism."""
    ssl_ca_file: Path | None = None
    """PEM file of the certificate authority; the system's when unset."""
    ssl_certificate_file: Path | None = None
    """PEM file of the client's certificate, for mutual TLS."""
    ssl_key_file: Path | None = None
    """PEM file of the client's key, for mutual TLS."""
    ssl_key_password: SecretStr | None = None
    """Password of the client's key."""
    request_timeout_s: PositiveFloat = 10.0
    """Longest wait for an answer of a broker, seconds."""
    metadata_refresh_s: PositiveFloat = 30.0
    """Time after which new partitions are seen, seconds; librdkafka's 300 s is too long for us."""

    def as_librdkafka(self) -> dict[str, object]:
        """Return a new dictionary for any kind of client; nothing is shared or changed."""
        config: dict[str, object] = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
            "socket.keepalive.enable": True,
            "socket.timeout.ms": int(self.request_timeout_s * 1000),
            "topic.metadata.refresh.interval.ms": int(self.metadata_refresh_s * 1000),
            "reconnect.backoff.max.ms": 2000,
            "logger": client_logger(),
        }
        optional: dict[str, object | None] = {
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password and self.sasl_password.get_secret_value(),
            "ssl.ca.location": self.ssl_ca_file and str(self.ssl_ca_file),
            "ssl.certificate.location": self.ssl_certificate_file
            and str(self.ssl_certificate_file),
            "ssl.key.location": self.ssl_key_file and str(self.ssl_key_file),
            "ssl.key.password": self.ssl_key_password and self.ssl_key_password.get_secret_value(),
        }
        config.update({key: value for key, value in optional.items() if value is not None})
        return config

    def consumer_config(self, group_id: str, loop: LoopSettings) -> dict[str, object]:
        """Return the configuration of a loop's consumer: it never commits by itself."""
        return {
            **self.as_librdkafka(),
            "group.id": group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # A position that is gone is a gap in the data; `GroupConsumer` finds the first one.
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            **_membership(loop),
            "max.poll.interval.ms": int(loop.max_poll_interval_s * 1000),
            # The default of 1000 ms starves a consumer that empties its queue.
            "fetch.queue.backoff.ms": 10,
            "fetch.message.max.bytes": MESSAGE_MAX_BYTES,
            "queued.min.messages": loop.prefetch_rows,
            "queued.max.messages.kbytes": loop.prefetch_kib,
            "statistics.interval.ms": int(loop.statistics_interval_s * 1000),
        }

    def producer_config(
        self, loop: LoopSettings, transactional_id: str | None = None
    ) -> dict[str, object]:
        """Return the configuration of a producer; transactional when an id is given."""
        config: dict[str, object] = {
            **self.as_librdkafka(),
            "enable.idempotence": True,
            # librdkafka's default partitioner is not Java's: keys would land apart.
            "partitioner": "murmur2_random",
            "compression.type": loop.compression,
            "linger.ms": _linger_s(loop, transactional_id is not None) * 1000,
            "batch.size": loop.producer_batch_bytes,
            "message.max.bytes": MESSAGE_MAX_BYTES,
            "queue.buffering.max.messages": loop.producer_queue_rows,
            "queue.buffering.max.kbytes": loop.producer_queue_kib,
        }
        if transactional_id is not None:
            config["transactional.id"] = transactional_id
            config["retry.backoff.ms"] = TRANSACTION_RETRY_MS
            config["transaction.timeout.ms"] = int(loop.transaction_timeout_s * 1000)
        else:
            config["delivery.timeout.ms"] = int(loop.transaction_timeout_s * 1000)
            config["delivery.report.only.error"] = True
        return config


def _linger_s(loop: LoopSettings, in_transactions: bool) -> float:
    """Return how long a record waits for company.

    A commit ends the wait. Without transactions nothing but itself does, and where commits come
    faster than it ends, each of them would have to send all of its interval.
    """
    if not in_transactions or loop.commit_interval_s < loop.linger_s:
        return min(SHORT_LINGER_S, loop.linger_s)
    return loop.linger_s


class LoopSettings(BaseModel):
    """How a loop batches, commits, waits and gives up. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    LIVE: ClassVar[tuple[str, ...]] = (
        "max_batch_rows",
        "max_in_flight",
        "commit_interval_s",
        "max_dead_letter_share",
        "max_dead_letters_in_row",
    )
    """What a running loop takes over when it changes; the rest is read at the start."""

    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """exactly_once: one Kafka transaction; at_least_once: flush, then commit (lower latency)."""
    max_batch_rows: PositiveInt = 4096
    """Most records handed to the handler at once."""
    max_in_flight: PositiveInt = 2
    """Batches submitted to the handler and not finished."""
    commit_interval_s: PositiveFloat = 0.1
    """Time between two commits, seconds: the knob between latency and throughput."""
    max_dead_letter_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of the last 1,000 records of a partition that may become dead letters before the
    partition is closed; 0 for any."""
    max_dead_letters_in_row: int = Field(default=50, ge=0)
    """Dead letters in a row before a partition is closed; 0 for any."""
    max_transaction_rows: PositiveInt = 50_000
    """Records after which a transaction is committed at once."""
    transaction_timeout_s: float = Field(default=10.0, ge=1.0, le=900.0)
    """Age at which the broker aborts a transaction, seconds; deliveries have the same time."""
    commit_timeout_s: PositiveFloat = 5.0
    """Longest wait for one commit or abort, seconds; then its outcome counts as unknown."""
    init_timeout_s: PositiveFloat = 2.0
    """Longest wait of one attempt to get the transactional id, seconds; nothing polls meanwhile."""
    restore_timeout_s: PositiveFloat = 60.0
    """Time a handler has to restore the state of its partitions, seconds; less than
    max_poll_interval_s, more than transaction_timeout_s."""
    drain_timeout_s: PositiveFloat = 5.0
    """Time to finish what is in flight after stop, seconds."""
    result_timeout_s: PositiveFloat = 30.0
    """Longest time a batch may be in flight before it is submitted again, seconds."""
    stall_s: PositiveFloat = 1.0
    """Time without a finished batch after which partitions are paused, seconds."""
    idle_poll_s: PositiveFloat = 0.1
    """Longest wait for a record when there is nothing else to do, seconds."""
    retry_max_wait_s: PositiveFloat = 10.0
    """Longest wait between two attempts while a dependency is away, seconds. Attempts go on until
    it is back: an outage is never drained into the dead letters."""
    fenced_budget: int = Field(default=3, ge=0)
    """Re-creations of a producer that reports itself fenced, per ten minutes; beyond it the
    worker exits. Our transactional id is ours alone, so the usual cause is our own time-out."""
    max_output_bytes: PositiveInt = 1_000_000
    """Largest key plus value of an output record; the row of a larger one is a dead letter."""
    wrapper: str = Field(default="", pattern=r"^$|^[\w.]+:\w+=.*$")
    """``package.module:function=argument`` that wraps the loop's clients and handler: tests inject
    faults by it; empty in any deployment."""
    journal_dir: Path | None = None
    """Folder, shared by the workers of a host, that tells which records were in flight when one was
    killed; without it no record is ever found to be poison."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """How the group agrees on partitions: classic, or consumer (KIP-848), where the broker decides
    and session_timeout_s is the broker's to set. Change it for all members of a group at once."""
    session_timeout_s: float = Field(default=10.0, ge=6.0)
    """Silence after which the group gives our partitions away, seconds."""
    rejoin_timeout_s: PositiveFloat = 30.0
    """Time without partitions and without a word of the group after which a worker joins it anew,
    seconds; twice as long each time; more than session_timeout_s, for which the group keeps what
    it had. Classic protocol only."""
    max_poll_interval_s: PositiveFloat = 300.0
    """Longest time between two polls, seconds."""
    prefetch_rows: PositiveInt = 16_384
    """Records fetched ahead per partition."""
    prefetch_kib: PositiveInt = 16_384
    """KiB fetched ahead per partition."""
    producer_queue_rows: PositiveInt = 200_000
    """Records waiting in the producer."""
    producer_queue_kib: PositiveInt = 65_536
    """KiB waiting in the producer."""
    producer_batch_bytes: PositiveInt = 1_000_000
    """Largest batch sent to a partition; keep it below the topics' max.message.bytes. Small batches
    fill the five requests that may be on their way, and the client then polls without a pause."""
    linger_s: float = Field(default=0.05, ge=0.0)
    """Wait for a producer batch to fill, seconds; a commit does not wait for it. With a shorter
    commit_interval_s at the start, and without transactions, it is 1 ms at most."""
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = "lz4"
    """Codec of what we produce."""
    statistics_interval_s: PositiveFloat = 1.0
    """Time between two measurements of lag, seconds."""

    @property
    def breaker_limits(self) -> BreakerLimits:
        """When the dead-letter breaker closes a partition."""
        return BreakerLimits(self.max_dead_letter_share, self.max_dead_letters_in_row)

    def retuned(self, wanted: LoopSettings) -> LoopSettings:
        """Return these settings with what may change while a loop runs."""
        return self.model_copy(update={name: getattr(wanted, name) for name in self.LIVE})


def _membership(loop: LoopSettings) -> dict[str, object]:
    """Return how a consumer is a member of its group."""
    if loop.group_protocol == "consumer":
        # Assignor and time-outs are the broker's: the client refuses to be given any.
        return {"group.protocol": "consumer"}
    return {
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(loop.session_timeout_s * 1000),
        "heartbeat.interval.ms": int(loop.session_timeout_s * 1000 / 4),
    }
