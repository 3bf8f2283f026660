"""The Kafka client's errors in our terms: the only place that reads its codes.

Producer calls inside a transaction are judged by librdkafka's flags (retriable, abortable, fatal;
whatever has no flag is fatal too); everything else by the code's category below. A test walks the
client's codes, so that a new one cannot pass unjudged.

References
----------
librdkafka INTRODUCTION.md, "Transactional producer: error handling".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from confluent_kafka import KafkaError, KafkaException
from penstock_schemas.errors import (
    BrokerUnavailable,
    ConfigError,
    DeliveryFailed,
    FatalError,
    FencedError,
    PenstockError,
)


class ErrorCategory(Enum):
    """What a code means for us."""

    RETRY = "a broker is away, busy or moving: the same call may succeed later"
    MEMBERSHIP = "the group has moved on: abort, poll, and work with the new assignment"
    FENCED = "another incarnation has taken our identity"
    CONFIG = "credentials, permissions or settings are wrong"
    UNDELIVERABLE = "this record can never be delivered"
    FATAL = "the program is wrong"


class TransactionClass(Enum):
    """librdkafka's classes of errors of a transactional producer."""

    RETRIABLE = "call again"
    ABORTABLE = "abort the transaction and rewind"
    FENCED = "another producer owns the transactional id"
    FATAL = "the producer is unusable, or the outcome unknown: make a new one"


class AbortRequired(PenstockError):
    """The open transaction must be aborted and its records read again.

    Parameters
    ----------
    message
        What failed.
    category
        Of the code behind it: some causes no repetition can cure.
    """

    def __init__(self, message: str, category: ErrorCategory = ErrorCategory.RETRY) -> None:
        super().__init__(message)
        self.category = category


class BreakerTripped(AbortRequired):
    """A partition leaves so many dead letters that it must be closed.

    Parameters
    ----------
    offset
        Of the first dead letter too many.
    dead_letter_class
        Its class.
    """

    def __init__(self, partition: int, offset: int, dead_letter_class: str, reason: str) -> None:
        super().__init__(f"partition {partition}, offset {offset}: {reason}")
        self.partition = partition
        self.offset = offset
        self.dead_letter_class = dead_letter_class
        self.reason = reason


class OutcomeUnknown(PenstockError):
    """A transaction call ended without telling what the broker did.

    The old producer must never speak again: a delayed commit or abort of it could hit a later
    transaction (librdkafka has no KIP-890).

    Parameters
    ----------
    message
        What happened.
    category
        Of the code behind it: some causes no new producer can cure.
    """

    def __init__(self, message: str, category: ErrorCategory = ErrorCategory.RETRY) -> None:
        super().__init__(message)
        self.category = category


_CODES: dict[ErrorCategory, str] = {
    ErrorCategory.RETRY: """
        BROKER_NOT_AVAILABLE CONCURRENT_TRANSACTIONS COORDINATOR_LOAD_IN_PROGRESS
        COORDINATOR_NOT_AVAILABLE ELIGIBLE_LEADERS_NOT_AVAILABLE FENCED_LEADER_EPOCH
        FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH KAFKA_STORAGE_ERROR
        INCONSISTENT_TOPIC_ID LEADER_NOT_AVAILABLE LISTENER_NOT_FOUND LOG_DIR_NOT_FOUND
        NETWORK_EXCEPTION NOT_CONTROLLER NOT_COORDINATOR NOT_ENOUGH_REPLICAS
        NOT_ENOUGH_REPLICAS_AFTER_APPEND NOT_LEADER_FOR_PARTITION OFFSET_NOT_AVAILABLE
        OPERATION_NOT_ATTEMPTED PREFERRED_LEADER_NOT_AVAILABLE REASSIGNMENT_IN_PROGRESS
        REBOOTSTRAP_REQUIRED REPLICA_NOT_AVAILABLE REQUEST_TIMED_OUT STALE_BROKER_EPOCH
        STALE_CTRL_EPOCH THROTTLING_QUOTA_EXCEEDED TRANSACTION_ABORTABLE
        TRANSACTION_COORDINATOR_FENCED UNKNOWN_CONTROLLER_ID UNKNOWN_LEADER_EPOCH
        UNKNOWN_TOPIC_ID UNKNOWN_TOPIC_OR_PART UNSTABLE_OFFSET_COMMIT NO_REASSIGNMENT_IN_PROGRESS
        ELECTION_NOT_NEEDED
        _ALL_BROKERS_DOWN _DESTROY_BROKER _IN_PROGRESS _INTR _ISR_INSUFF _MSG_TIMED_OUT
        _NODE_UPDATE _NOOP _NO_OFFSET _OUTDATED _PARTIAL _PARTITION_EOF _PREV_IN_PROGRESS
        _PURGE_INFLIGHT _PURGE_QUEUE _QUEUE_FULL _RESOLVE _RETRY _STATE _TIMED_OUT
        _TIMED_OUT_QUEUE _TRANSPORT _UNKNOWN_BROKER _UNKNOWN_PARTITION _UNKNOWN_TOPIC _WAIT_CACHE
        _WAIT_COORD _INCONSISTENT _LOG_TRUNCATION
    """,
    ErrorCategory.MEMBERSHIP: """
        FENCED_MEMBER_EPOCH ILLEGAL_GENERATION MEMBER_ID_REQUIRED REBALANCE_IN_PROGRESS
        STALE_MEMBER_EPOCH UNKNOWN_MEMBER_ID _ASSIGNMENT_LOST _ASSIGN_PARTITIONS
        _MAX_POLL_EXCEEDED _REVOKE_PARTITIONS _UNKNOWN_GROUP
    """,
    ErrorCategory.FENCED: """
        FENCED_INSTANCE_ID INVALID_PRODUCER_EPOCH PRODUCER_FENCED UNRELEASED_INSTANCE_ID _FENCED
    """,
    ErrorCategory.CONFIG: """
        CLUSTER_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTHORIZATION_FAILED
        DELEGATION_TOKEN_AUTH_DISABLED DELEGATION_TOKEN_EXPIRED DELEGATION_TOKEN_NOT_FOUND
        DELEGATION_TOKEN_OWNER_MISMATCH DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        GROUP_AUTHORIZATION_FAILED GROUP_MAX_SIZE_REACHED ILLEGAL_SASL_STATE
        INCONSISTENT_GROUP_PROTOCOL INVALID_CONFIG INVALID_GROUP_ID INVALID_PRINCIPAL_TYPE
        INVALID_SESSION_TIMEOUT INVALID_TRANSACTION_TIMEOUT SASL_AUTHENTICATION_FAILED
        SECURITY_DISABLED TOPIC_AUTHORIZATION_FAILED TOPIC_EXCEPTION
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED UNACCEPTABLE_CREDENTIAL UNSUPPORTED_ASSIGNOR
        UNSUPPORTED_COMPRESSION_TYPE UNSUPPORTED_FOR_MESSAGE_FORMAT UNSUPPORTED_SASL_MECHANISM
        UNSUPPORTED_VERSION INVALID_REQUIRED_ACKS INVALID_REGULAR_EXPRESSION
        _AUTHENTICATION _INVALID_ARG _NOT_CONFIGURED _SSL _UNKNOWN_PROTOCOL _UNSUPPORTED_FEATURE
        _AUTO_OFFSET_RESET OFFSET_OUT_OF_RANGE
    """,
    ErrorCategory.UNDELIVERABLE: """
        INVALID_RECORD INVALID_TIMESTAMP MSG_SIZE_TOO_LARGE POLICY_VIOLATION RECORD_LIST_TOO_LARGE
    """,
    ErrorCategory.FATAL: """
        DUPLICATE_RESOURCE DUPLICATE_SEQUENCE_NUMBER DUPLICATE_VOTER FEATURE_UPDATE_FAILED
        FENCED_STATE_EPOCH GROUP_ID_NOT_FOUND GROUP_SUBSCRIBED_TO_TOPIC INCONSISTENT_VOTER_SET
        INVALID_COMMIT_OFFSET_SIZE INVALID_MSG INVALID_MSG_SIZE INVALID_PARTITIONS
        INVALID_PRODUCER_ID_MAPPING INVALID_RECORD_STATE INVALID_REGISTRATION
        INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT INVALID_REQUEST
        INVALID_SHARE_SESSION_EPOCH INVALID_TXN_STATE INVALID_UPDATE_VERSION INVALID_VOTER_KEY
        MISMATCHED_ENDPOINT_TYPE NON_EMPTY_GROUP OFFSET_METADATA_TOO_LARGE
        OUT_OF_ORDER_SEQUENCE_NUMBER PRINCIPAL_DESERIALIZATION_FAILURE RESOURCE_NOT_FOUND
        SHARE_SESSION_LIMIT_REACHED SHARE_SESSION_NOT_FOUND STREAMS_INVALID_TOPOLOGY
        STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED TELEMETRY_TOO_LARGE
        TOPIC_ALREADY_EXISTS TOPIC_DELETION_DISABLED UNKNOWN UNKNOWN_PRODUCER_ID
        UNKNOWN_SUBSCRIPTION_ID UNSUPPORTED_ENDPOINT_TYPE VOTER_NOT_FOUND
        _APPLICATION _BAD_COMPRESSION _BAD_MSG _CONFLICT _CRIT_SYS_RESOURCE _DESTROY
        _EXISTING_SUBSCRIPTION _FAIL _FATAL _FS _GAPLESS_GUARANTEE _INVALID_DIFFERENT_RECORD
        _INVALID_TYPE _KEY_DESERIALIZATION _KEY_SERIALIZATION _NOENT _NOT_IMPLEMENTED _READ_ONLY
        _UNDERFLOW _VALUE_DESERIALIZATION _VALUE_SERIALIZATION
    """,
}

# A name that this version of the client lacks is simply not there to be raised.
CATEGORIES: dict[int, ErrorCategory] = {
    code: category
    for category, names in _CODES.items()
    for name in names.split()
    if isinstance(code := getattr(KafkaError, name, None), int)
}
"""ErrorCategory of every code; a code that is missing is fatal."""


def category_of(error: KafkaError) -> ErrorCategory:
    """Return what an error means outside of a transaction call."""
    return CATEGORIES.get(error.code(), ErrorCategory.FATAL)


def transaction_class(error: KafkaError) -> TransactionClass:
    """Return the class of an error that a transactional producer call raised."""
    if category_of(error) is ErrorCategory.FENCED and not error.txn_requires_abort():
        return TransactionClass.FENCED
    if error.fatal():
        return TransactionClass.FATAL
    if error.txn_requires_abort():
        return TransactionClass.ABORTABLE
    if error.retriable():
        return TransactionClass.RETRIABLE
    return TransactionClass.FATAL


CLIENT_EXCEPTIONS = (KafkaException, SystemError)
"""What a client call raises. A fatal error is raised inside a callback, and where the client's log
callback runs right after it, Python reports a SystemError whose cause is the client's exception."""


def error_of(exception: BaseException) -> KafkaError:
    """Return the client's error inside what one of its calls raised."""
    if isinstance(exception, SystemError) and exception.__cause__ is not None:
        exception = exception.__cause__
    error = exception.args[0] if exception.args else None
    if isinstance(error, KafkaError):
        return error
    return KafkaError(KafkaError._FAIL, str(exception), True)  # noqa: SLF001 - its public name


def penstock_error(error: KafkaError, doing: str) -> PenstockError:
    """Return the error of our tree for one outside of a transaction call.

    Parameters
    ----------
    doing
        What was tried, such as ``reading fraud.events.v1``.
    """
    text = f"{doing}: {error.name()}: {error.str()}"
    match category_of(error):
        case ErrorCategory.RETRY:
            return BrokerUnavailable(text)
        case ErrorCategory.MEMBERSHIP:
            return AbortRequired(text, ErrorCategory.MEMBERSHIP)
        case ErrorCategory.FENCED:
            return FencedError(text)
        case ErrorCategory.CONFIG:
            return ConfigError(text)
        case ErrorCategory.UNDELIVERABLE:
            return DeliveryFailed(text)
        case _:
            return FatalError(text)


@contextmanager
def client_errors(doing: str) -> Iterator[None]:
    """Raise the client's errors, outside of a transaction call, as those of our tree.

    Parameters
    ----------
    doing
        What is tried, as `penstock_error` takes it.
    """
    try:
        yield
    except CLIENT_EXCEPTIONS as exc:
        raise penstock_error(error_of(exc), doing) from exc
    except TimeoutError as exc:  # of a future that an AdminClient has returned
        raise BrokerUnavailable(f"{doing}: no answer in time") from exc
