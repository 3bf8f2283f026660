"""What a fenced writer makes of the client's errors, on a producer that is made up."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import create_autospec

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from penstock_schemas.errors import BrokerUnavailable, ConfigError, DeliveryFailed, FencedError
from penstock_streaming import fenced_writer
from penstock_streaming.errors import AbortRequired, OutcomeUnknown
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.settings import KafkaSettings
from penstock_streaming.timing import Deadline

RECORD = LogRecord("t", b"k", b"v")
FENCED = KafkaError(KafkaError._FENCED, "", True)
TIMED_OUT = KafkaError(KafkaError._TIMED_OUT, "", False, True)
ABORTABLE = KafkaError(KafkaError._TIMED_OUT_QUEUE, "", False, False, True)
FATAL = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "", True)
NOT_ALLOWED = KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)


CALLS = (
    "init_transactions",
    "begin_transaction",
    "produce",
    "commit_transaction",
    "abort_transaction",
)


class MadeProducers:
    """Producers that a writer makes, one after the other."""

    def __init__(self) -> None:
        self.made: list[object] = []
        self.fails: dict[str, list[KafkaError]] = {}

    def producer(self, config: dict[str, object]) -> object:
        mock = create_autospec(Producer, instance=True)
        for name in CALLS:
            getattr(mock, name).side_effect = self._call(name)
        self.made.append(mock)
        return mock

    def _call(self, name: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            if self.fails.get(name):
                raise KafkaException(self.fails[name].pop(0))

        return call


@pytest.fixture
def producers(monkeypatch: pytest.MonkeyPatch) -> MadeProducers:
    made = MadeProducers()
    monkeypatch.setattr(fenced_writer, "Producer", made.producer)
    monkeypatch.setattr(fenced_writer, "_FIRST_PAUSE_S", 0.0)
    return made


@pytest.fixture
def writer(producers: MadeProducers) -> FencedWriter:
    return FencedWriter(KafkaSettings(), "id")


@pytest.mark.parametrize(("cause", "expected"), [(FENCED, FencedError), (FATAL, OutcomeUnknown)])
def test_fatal_error_of_a_produce_is_what_the_next_call_says(
    producers: MadeProducers, writer: FencedWriter, cause: KafkaError, expected: type[Exception]
) -> None:
    writer.open()
    producers.fails["produce"] = [KafkaError(KafkaError._FATAL, "Local: Fatal error", True)]
    producers.fails["abort_transaction"] = [cause]
    with pytest.raises(expected):
        writer.write_transaction([RECORD])
    assert not writer.is_open


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FENCED, FencedError),
        (ABORTABLE, AbortRequired),
        (FATAL, OutcomeUnknown),
        (NOT_ALLOWED, ConfigError),
        (TOO_LARGE, DeliveryFailed),
    ],
)
def test_errors_of_a_commit(
    producers: MadeProducers, writer: FencedWriter, error: KafkaError, expected: type[Exception]
) -> None:
    writer.open()
    producers.fails["commit_transaction"] = [error]
    with pytest.raises(expected):
        writer.write_transaction([RECORD])
    assert not writer.is_open


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FENCED, FencedError), (NOT_ALLOWED, ConfigError), (FATAL, BrokerUnavailable)],
)
def test_errors_of_taking_the_id(
    producers: MadeProducers, writer: FencedWriter, error: KafkaError, expected: type[Exception]
) -> None:
    producers.fails["init_transactions"] = [error]
    with pytest.raises(expected, match="taking id"):
        writer.open()
    assert not writer.is_open


def test_retriable_calls_are_repeated_on_the_same_producer(
    producers: MadeProducers, writer: FencedWriter
) -> None:
    producers.fails = {"init_transactions": [TIMED_OUT], "commit_transaction": [TIMED_OUT]}
    writer.open()
    writer.write_transaction([RECORD])
    assert len(producers.made) == 1
    assert writer.is_open


def test_lost_race_and_unknown_outcome_are_decided_anew_with_a_new_producer(
    producers: MadeProducers, writer: FencedWriter
) -> None:
    producers.fails = {
        "init_transactions": [FENCED],
        "commit_transaction": [FATAL, FENCED, ABORTABLE],
    }
    decided: list[int] = []

    def decide(_: Deadline) -> list[LogRecord]:
        decided.append(len(producers.made))
        return [RECORD]

    writer.write_decision(decide, 30.0)
    assert decided == [2, 3, 4, 5]
    assert not writer.is_open


def test_what_a_decision_raises_is_raised(producers: MadeProducers, writer: FencedWriter) -> None:
    def decide(_: Deadline) -> list[LogRecord]:
        raise BrokerUnavailable("the end was not reached")

    with pytest.raises(BrokerUnavailable, match="the end"):
        writer.write_decision(decide, 30.0)
    assert len(producers.made) == 1
    assert not writer.is_open


def test_transaction_is_aborted_when_the_writer_is_closed(
    producers: MadeProducers, writer: FencedWriter
) -> None:
    writer.open()
    writer.close()
    writer.open()
    writer.produce(RECORD)
    writer.close()
    aborts = [mock.abort_transaction.call_count for mock in producers.made]  # type: ignore[attr-defined]
    assert aborts == [0, 1]
