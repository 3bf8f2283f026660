"""Every code of the client is judged, and the flags decide inside a transaction."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from penstock_schemas.errors import (
    BrokerUnavailable,
    ConfigError,
    DeliveryFailed,
    FatalError,
    FencedError,
    PenstockError,
)
from penstock_streaming.errors import (
    CATEGORIES,
    AbortRequired,
    ErrorCategory,
    TransactionClass,
    category_of,
    error_of,
    penstock_error,
    transaction_class,
)

CODES = {
    name: getattr(KafkaError, name)
    for name in dir(KafkaError)
    if isinstance(getattr(KafkaError, name), int) and name.replace("_", "").isupper()
}


def test_every_code_of_the_client_has_a_verdict() -> None:
    unjudged = {name for name, code in CODES.items() if code not in CATEGORIES} - {"NO_ERROR"}
    assert unjudged == set()


def test_an_unknown_code_is_fatal() -> None:
    assert category_of(KafkaError(-9999)) is ErrorCategory.FATAL


@pytest.mark.parametrize(
    ("fatal", "retriable", "abort", "expected"),
    [
        (False, True, False, TransactionClass.RETRIABLE),
        (False, False, True, TransactionClass.ABORTABLE),
        (True, False, False, TransactionClass.FATAL),
        (False, False, False, TransactionClass.FATAL),
    ],
)
def test_flags_decide_inside_a_transaction(
    fatal: bool, retriable: bool, abort: bool, expected: TransactionClass
) -> None:
    error = KafkaError(KafkaError._TIMED_OUT, "x", fatal, retriable, abort)
    assert transaction_class(error) is expected


@pytest.mark.parametrize(
    "code", [KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED]
)
def test_a_fenced_producer_is_told_apart_from_other_fatal_errors(code: int) -> None:
    assert transaction_class(KafkaError(code, "x", True, False, False)) is TransactionClass.FENCED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_TRANSPORT", BrokerUnavailable),
        ("UNKNOWN_TOPIC_OR_PART", BrokerUnavailable),
        ("ILLEGAL_GENERATION", AbortRequired),
        ("FENCED_INSTANCE_ID", FencedError),
        ("TOPIC_AUTHORIZATION_FAILED", ConfigError),
        ("MSG_SIZE_TOO_LARGE", DeliveryFailed),
        ("_BAD_MSG", FatalError),
    ],
)
def test_a_code_becomes_a_class_of_our_tree(name: str, kind: type[PenstockError]) -> None:
    error = penstock_error(KafkaError(CODES[name]), "reading t")
    assert type(error) is kind
    assert name in str(error)
    assert "reading t" in str(error)


def test_an_exception_without_a_client_error_is_fatal() -> None:
    assert category_of(error_of(KafkaException("odd"))) is ErrorCategory.FATAL


def test_a_fatal_error_that_a_log_callback_has_wrapped_is_found() -> None:
    fenced = KafkaError(KafkaError._FENCED, "x", True, False, False)
    wrapped = SystemError("returned a result with an exception set")
    wrapped.__cause__ = KafkaException(fenced)
    assert transaction_class(error_of(wrapped)) is TransactionClass.FENCED
    assert transaction_class(error_of(SystemError("bare"))) is TransactionClass.FATAL
