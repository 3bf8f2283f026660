"""The decisions of the loop, on fakes: error to action, order, rebalance, unknown outcomes."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError
from harness.loop import (
    DLQ,
    IN,
    OUT,
    FakeLoop,
    MakeLoop,
    Recorder,
    Stateful,
    Stateless,
    copied,
)
from penstock_schemas import headers
from penstock_schemas.errors import (
    DecodeError,
    DeliveryFailed,
    FatalError,
    FencedError,
    ModelUnavailable,
)
from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns

UNKNOWN = KafkaError(KafkaError._TIMED_OUT, "no answer", False, False, False)
ABORTABLE = KafkaError(KafkaError._INCONSISTENT, "delivery failed", False, False, True)
STALE = KafkaError(KafkaError.ILLEGAL_GENERATION, "rebalanced", False, False, True)
FENCED = KafkaError(KafkaError._FENCED, "fenced", True, False, False)


def test_records_and_offsets_are_committed_together(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.feed(b"a", b"b")
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b"]
    assert loop.broker.offsets == {(IN, 0): 2}
    assert loop.handler.named("committed") == [None]
    assert loop.count("penstock_records_total", outcome="output") == 2


def test_a_transaction_spans_batches_until_it_is_due(make_loop: MakeLoop) -> None:
    loop = make_loop(max_transaction_rows=3, commit_interval_s=60.0, max_batch_rows=1).started()
    loop.feed(b"a", b"b", b"c")
    loop.turn(2)
    assert loop.broker.values(OUT) == []
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b", b"c"]
    assert loop.broker.calls.count("commit_transaction") == 1


def test_an_idle_worker_opens_no_transaction(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.turn(5)
    assert "begin_transaction" not in loop.broker.calls


def test_restore_comes_before_the_first_record_of_a_partition(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.feed(b"a")
    loop.started()
    loop.turn()
    names = [name for name, _ in loop.handler.events]
    assert names.index("assigned") < names.index("submit")


def test_a_dead_letter_leaves_its_neighbours_alone(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.handler.handle = lambda batch: copied(batch, [(1, DecodeError("bad magic"))])
    loop.started()
    loop.feed(b"a", b"b", b"c")
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"c"]
    [letter] = loop.broker.log[DLQ]
    assert (letter.value, letter.timestamp_ms) == (b"b", 1_000)
    assert dict(letter.headers)[headers.DLQ_ORIGIN] == f"{IN}/0/1".encode()
    assert loop.broker.offsets == {(IN, 0): 3}


def test_skips_only_still_move_the_offset(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.handler.handle = lambda batch: HandledBatch([], skipped={"tombstone": len(batch)})
    loop.started()
    loop.feed(None)
    loop.turn()
    assert loop.broker.offsets == {(IN, 0): 1}
    assert loop.count("penstock_records_total", outcome="tombstone") == 1


@pytest.mark.parametrize(
    "handled",
    [
        HandledBatch([]),
        HandledBatch([], terminal=3),
        HandledBatch([], dead_letters=[(0, DecodeError("x")), (0, DecodeError("x"))]),
        HandledBatch([], dead_letters=[(0, DecodeError("x")), (2, DecodeError("x"))]),
    ],
)
def test_a_row_without_one_outcome_stops_the_loop(
    make_loop: MakeLoop, handled: HandledBatch
) -> None:
    loop = make_loop()
    loop.handler.handle = lambda _: handled
    loop.started()
    loop.feed(b"a", b"b")
    with pytest.raises(FatalError):
        loop.turn()
    assert loop.broker.offsets == {}


def test_a_retryable_error_keeps_order_and_makes_no_dead_letter(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=1).started()
    loop.handler.errors = [ModelUnavailable("away"), ModelUnavailable("away")]
    loop.feed(b"a", b"b", b"c")
    loop.turn(2)
    assert loop.consumer.paused == {0}
    assert not loop.processor.ready
    loop.turn(8)
    assert loop.broker.values(OUT) == [b"a", b"b", b"c"]
    assert loop.broker.log[DLQ] == []
    assert loop.consumer.paused == set()
    assert loop.processor.ready
    assert loop.count("penstock_retries_total", error_type="ModelUnavailable") == 2


def test_waiting_for_a_dependency_polls_and_submits_nothing(make_loop: MakeLoop) -> None:
    loop = make_loop(retry_max_wait_s=60.0, idle_poll_s=0.001).started()
    loop.handler.errors = [ModelUnavailable("away", retry_after_s=50.0)]
    loop.feed(b"a")
    loop.turn(6)
    assert len(loop.handler.named("submit")) == 1
    loop.consumer.revoke(0)
    loop.turn()
    assert loop.handler.named("revoked") == [[0]]
    assert loop.processor._consumer.owned == set()


def test_what_is_done_is_committed_while_a_later_batch_waits(make_loop: MakeLoop) -> None:
    loop = make_loop(
        max_batch_rows=1, retry_max_wait_s=60.0, max_transaction_rows=2, commit_interval_s=1e-9
    ).started()
    loop.feed(b"a")
    loop.turn()
    loop.handler.errors = [ModelUnavailable("away", retry_after_s=50.0)]
    loop.feed(b"b")
    loop.turn(2)
    assert loop.broker.offsets == {(IN, 0): 1}
    assert "abort_transaction" not in loop.broker.calls


def test_batches_in_flight_are_finished_in_the_order_they_were_read(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=1).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b")
    loop.turn(2)
    first, second = loop.handler.answers
    second.is_done = True
    loop.turn()
    assert loop.broker.values(OUT) == []
    first.is_done = True
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b"]


def test_a_failed_answer_is_submitted_again_before_later_ones_are_written(
    make_loop: MakeLoop,
) -> None:
    loop = make_loop(max_batch_rows=1).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b")
    loop.turn(2)
    first, second = loop.handler.answers
    first.is_done = second.is_done = True
    first.error = ModelUnavailable("away")
    loop.turn(2)
    assert loop.handler.named("submit") == [[b"a"], [b"b"], [b"a"]]
    loop.handler.answers[-1].is_done = True
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b"]


def test_small_batches_wait_for_each_other_and_grow(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=3).started()
    loop.handler.answers = []
    loop.feed(b"a")
    loop.turn()
    loop.feed(b"b", b"c")
    loop.turn()
    assert loop.handler.named("submit") == [[b"a"]]
    loop.handler.answers[0].is_done = True
    loop.turn(2)
    assert loop.handler.named("submit") == [[b"a"], [b"b", b"c"]]


def test_full_batches_overlap(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=2, max_in_flight=2).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b", b"c", b"d", b"e")
    loop.turn(3)
    assert loop.handler.named("submit") == [[b"a", b"b"], [b"c", b"d"]]


def test_offsets_of_batches_in_flight_are_not_committed(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=1).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b")
    loop.turn(2)
    loop.handler.answers[0].is_done = True
    loop.turn()
    assert loop.broker.offsets == {(IN, 0): 1}


def test_a_stateful_handler_commits_only_when_nothing_is_in_flight(make_loop: MakeLoop) -> None:
    loop = make_loop(Stateful(), max_batch_rows=1).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b")
    loop.turn(2)
    loop.handler.answers[0].is_done = True
    loop.turn()
    assert loop.broker.offsets == {}
    loop.handler.answers[1].is_done = True
    loop.turn()
    assert loop.broker.offsets == {(IN, 0): 2}
    assert loop.broker.values("p.state") == [b"s"]
    assert loop.handler.events[-2:] == [("changelog", None), ("committed", None)]


@pytest.mark.parametrize(("handler", "settles"), [(Stateful(), True), (Stateless(), False)])
def test_state_changes_lie_in_the_log_before_the_offsets_are_sent(
    make_loop: MakeLoop, handler: Recorder, settles: bool
) -> None:
    loop = make_loop(handler).started()
    loop.feed(b"a")
    loop.turn(3)
    calls = loop.broker.calls[loop.broker.calls.index("begin_transaction") :]
    before = calls[: calls.index("send_offsets_to_transaction")]
    acts = [call for call in before if call != "poll"]
    assert (acts[-1] == "flush") is settles


def test_a_stateful_handler_goes_back_when_its_answer_fails(make_loop: MakeLoop) -> None:
    loop = make_loop(Stateful()).started()
    loop.handler.answers = []
    loop.feed(b"a")
    loop.turn()
    loop.handler.answers[0].is_done = True
    loop.handler.answers[0].error = ModelUnavailable("away")
    loop.turn()
    loop.handler.answers = None
    loop.turn(3)
    assert loop.handler.named("rolled_back") == [[0]]
    assert loop.broker.values(OUT) == [b"a"]


def test_a_slow_batch_pauses_the_partitions_and_flows_on_after(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=1, max_in_flight=1, stall_s=1e-9).started()
    loop.handler.answers = []
    loop.feed(b"a", b"b")
    loop.turn(3)
    assert loop.consumer.paused == {0}
    loop.handler.answers[0].is_done = True
    loop.turn()
    assert loop.consumer.paused == set()
    assert loop.broker.values(OUT) == [b"a"]


def test_an_unanswered_batch_is_submitted_again(make_loop: MakeLoop) -> None:
    loop = make_loop(result_timeout_s=1e-9).started()
    loop.handler.answers = []
    loop.feed(b"a")
    loop.turn()
    loop.handler.answers = None
    loop.turn()
    assert loop.handler.named("submit") == [[b"a"], [b"a"]]
    assert loop.broker.values(OUT) == [b"a"]


# Rebalances


def open_transaction(make_loop: MakeLoop, *partitions: int) -> FakeLoop:
    """Return a loop with one record of each partition produced and not committed."""
    loop = make_loop(max_transaction_rows=1_000, commit_interval_s=60.0).started(*partitions)
    for partition in partitions:
        loop.feed(b"%d" % partition, partition=partition)
    loop.turn()
    assert loop.broker.values(OUT) == []
    return loop


def test_a_revoke_aborts_and_rewinds_what_is_kept(make_loop: MakeLoop) -> None:
    loop = open_transaction(make_loop, 0, 1)
    loop.consumer.revoke(1)
    loop.feed(b"x", partition=0)
    loop.turn()
    assert [r.value for r in loop.broker.aborted] == [b"0", b"1"]
    assert loop.handler.named("revoked") == [[1]]
    assert loop.handler.named("rolled_back") == [[0]]
    loop.turn(2)
    loop.processor._drain()
    assert loop.broker.values(OUT) == [b"0", b"x"]
    assert loop.broker.offsets == {(IN, 0): 2}


def test_a_revoke_without_open_work_keeps_records_of_other_partitions(make_loop: MakeLoop) -> None:
    loop = make_loop().started(0, 1)
    loop.consumer.revoke(1)
    loop.feed(b"a", partition=0)
    loop.turn()
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.handler.named("rolled_back") == []
    assert "abort_transaction" not in loop.broker.calls


def test_lost_partitions_drop_the_batches_in_flight(make_loop: MakeLoop) -> None:
    loop = make_loop(max_batch_rows=1).started()
    loop.handler.answers = []
    loop.feed(b"a")
    loop.turn()
    loop.consumer.lose(0)
    loop.turn()
    loop.handler.answers[0].is_done = True
    loop.turn(2)
    assert loop.broker.values(OUT) == []
    assert loop.broker.offsets == {}
    assert loop.handler.named("rolled_back") == []


def test_records_of_a_new_partition_wait_for_a_restore_that_fails(make_loop: MakeLoop) -> None:
    loop = make_loop()
    failures = [ModelUnavailable("changelog away")]

    def assigned(partitions: object, deadline_s: float) -> None:
        if failures:
            raise failures.pop()
        loop.handler.events.append(("assigned", partitions))

    loop.handler.assigned = assigned  # type: ignore[method-assign]
    loop.feed(b"a")
    loop.consumer.assign(0)
    loop.turn()
    assert loop.handler.named("submit") == []
    loop.turn(2)
    assert loop.broker.values(OUT) == [b"a"]


def test_a_partition_that_comes_as_another_goes_is_restored_and_not_rolled_back(
    make_loop: MakeLoop,
) -> None:
    loop = open_transaction(make_loop, 0, 1)
    loop.consumer.revoke(1)
    loop.consumer.assign(2)
    loop.turn(2)
    assert loop.handler.named("rolled_back") == [[0]]
    assert loop.handler.named("assigned") == [[0, 1], [2]]


def test_partitions_lost_and_won_again_in_one_poll_are_restored(make_loop: MakeLoop) -> None:
    loop = open_transaction(make_loop, 0)
    loop.consumer.lose(0)
    loop.consumer.assign(0)
    loop.turn(3)
    loop.processor._drain()
    assert loop.handler.named("rolled_back") == []
    assert loop.handler.named("assigned") == [[0], [0]]
    assert loop.broker.values(OUT) == [b"0"]


def test_counters_count_what_is_committed_and_nothing_twice(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.handler.handle = lambda batch: copied(batch, [(1, DecodeError("x"))])
    loop.started()
    loop.broker.fail("commit_transaction", ABORTABLE)
    loop.feed(b"a", b"b")
    loop.turn()
    assert loop.count("penstock_records_total", outcome="output") == 0
    loop.turn(2)
    assert loop.count("penstock_records_total", outcome="output") == 1
    assert loop.count("penstock_records_total", outcome="dead_letter") == 1
    assert loop.count("penstock_dead_letters_total", **{"class": "decode"}) == 1


def test_a_lost_membership_is_never_committed(make_loop: MakeLoop) -> None:
    loop = open_transaction(make_loop, 0)
    loop.consumer.member = ""
    loop.processor._drain()
    assert "send_offsets_to_transaction" not in loop.broker.calls
    assert loop.broker.offsets == {}


# Transactions that fail


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize("applied", [True, False])
def test_an_unknown_outcome_makes_a_new_producer_and_neither_loses_nor_doubles(
    make_loop: MakeLoop, call: str, applied: bool
) -> None:
    loop = make_loop().started()
    loop.broker.fail(call, UNKNOWN, applied=applied)
    loop.feed(b"a", b"b")
    loop.turn(4)
    assert loop.broker.values(OUT) == [b"a", b"b"]
    assert loop.broker.offsets == {(IN, 0): 2}
    assert len(loop.clients.producers) == 2
    assert loop.broker.calls.count("init_transactions") == 2
    assert loop.handler.named("rolled_back") == [[0]]
    assert loop.count("penstock_transactions_total", result="recreated") == 1


def test_a_producer_that_lost_a_connection_begins_no_transaction(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.feed(b"a")
    loop.turn(3)
    loop.clients.producers[0].met.append(KafkaError(KafkaError._TRANSPORT))
    before = loop.broker.calls.count("begin_transaction")
    loop.feed(b"b")
    loop.turn(4)
    assert loop.broker.values(OUT) == [b"a", b"b"]
    assert loop.broker.offsets == {(IN, 0): 2}
    assert len(loop.clients.producers) == 2
    assert loop.broker.calls.count("begin_transaction") == before + 1
    assert loop.count("penstock_transactions_total", result="recreated") == 1


def test_a_producer_that_loses_a_connection_adds_no_offsets_and_leaves(make_loop: MakeLoop) -> None:
    loop = make_loop(max_transaction_rows=2, commit_interval_s=60.0, max_batch_rows=1).started()
    loop.feed(b"a")
    loop.turn(3)
    loop.clients.producers[0].met.append(KafkaError(KafkaError._TRANSPORT))
    loop.feed(b"b")
    loop.turn(6)
    assert loop.broker.values(OUT) == [b"a", b"b"]
    assert loop.broker.offsets == {(IN, 0): 2}
    assert len(loop.clients.producers) == 2
    assert loop.broker.calls.count("send_offsets_to_transaction") == 1
    left, dropped = (loop.broker.calls.index(call) for call in ("abort_transaction", "purge"))
    assert left < dropped, "the client was dropped within its transaction"
    assert [r.value for r in loop.broker.aborted] == [b"a", b"b"]


def test_what_a_producer_met_on_its_way_to_its_id_is_over(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.broker.hindrances.append(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    loop.started()
    loop.feed(b"a")
    loop.turn(4)
    assert loop.broker.values(OUT) == [b"a"]
    assert len(loop.clients.producers) == 1


def test_an_abortable_error_aborts_and_reads_again(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.broker.fail("commit_transaction", STALE)
    loop.feed(b"a")
    loop.turn(3)
    assert [r.value for r in loop.broker.aborted] == [b"a"]
    assert loop.broker.values(OUT) == [b"a"]
    assert len(loop.clients.producers) == 1


def test_a_failing_abort_makes_a_new_producer(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.broker.fail("commit_transaction", ABORTABLE)
    loop.broker.fail("abort_transaction", UNKNOWN)
    loop.feed(b"a")
    loop.turn(3)
    assert len(loop.clients.producers) == 2
    assert loop.broker.values(OUT) == [b"a"]


def test_a_retriable_commit_is_repeated_on_the_same_producer(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    again = KafkaError(KafkaError._TIMED_OUT, "slow", False, True, False)
    loop.broker.fail("commit_transaction", again)
    loop.feed(b"a")
    loop.turn()
    assert loop.broker.values(OUT) == [b"a"]
    assert len(loop.clients.producers) == 1


def test_a_retriable_commit_that_stays_away_counts_as_unknown(make_loop: MakeLoop) -> None:
    loop = make_loop(commit_timeout_s=1e-9).started()
    loop.broker.fail(
        "commit_transaction", KafkaError(KafkaError._TIMED_OUT, "slow", False, True, False)
    )
    loop.feed(b"a")
    loop.turn(3)
    assert len(loop.clients.producers) == 2
    assert loop.broker.values(OUT) == [b"a"]


def test_fencing_is_survived_within_the_budget_and_then_ends_the_worker(
    make_loop: MakeLoop,
) -> None:
    loop = make_loop(fenced_budget=1).started()
    loop.broker.fail("commit_transaction", FENCED)
    loop.feed(b"a")
    loop.turn(3)
    assert loop.broker.values(OUT) == [b"a"]
    loop.broker.fail("commit_transaction", FENCED)
    loop.feed(b"b")
    with pytest.raises(FencedError):
        loop.turn()


@pytest.mark.parametrize("error", [FENCED, KafkaError(KafkaError._FATAL, "x", True, False, False)])
def test_a_fatal_error_told_while_polling_makes_a_new_producer(
    make_loop: MakeLoop, error: KafkaError
) -> None:
    loop = make_loop().started()
    loop.broker.fail("poll", error)
    loop.broker.fail("abort_transaction", error)
    loop.feed(b"a")
    loop.turn(3)
    assert loop.broker.values(OUT) == [b"a"]
    assert len(loop.clients.producers) == 2


def test_aborts_in_a_row_end_the_worker(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    for _ in range(30):
        loop.broker.fail("commit_transaction", ABORTABLE)
    loop.feed(b"a")
    with pytest.raises(DeliveryFailed):
        loop.turn(200)


def test_an_error_that_no_new_producer_cures_ends_the_worker(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    wrong = KafkaError(KafkaError._INVALID_ARG, "wrong", False, False, False)
    for _ in range(30):
        loop.broker.fail("begin_transaction", wrong)
    loop.feed(b"a")
    with pytest.raises(DeliveryFailed, match="21 producers lost in a row: _INVALID_ARG"):
        loop.turn(200)
    assert loop.broker.offsets == {}


def test_no_number_of_lost_answers_ends_the_worker(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    for _ in range(30):
        loop.broker.fail("commit_transaction", UNKNOWN)
    loop.feed(b"a")
    loop.turn(200)
    assert loop.broker.values(OUT) == [b"a"]


def test_a_producer_lost_again_is_waited_with(make_loop: MakeLoop) -> None:
    loop = make_loop(retry_max_wait_s=60.0).started()
    for _ in range(2):
        loop.broker.fail("commit_transaction", UNKNOWN)
    loop.feed(b"a")
    loop.turn(20)
    assert loop.processor._recovery.outage.is_active
    assert loop.broker.calls.count("commit_transaction") == 2


def test_an_undeliverable_record_ends_the_worker_at_once(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    large = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large", False, False, True)
    loop.broker.fail("commit_transaction", large)
    loop.feed(b"a")
    with pytest.raises(DeliveryFailed):
        loop.turn()


def test_no_broker_at_the_start_is_waited_for(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.broker.fail("init_transactions", UNKNOWN)
    loop.feed(b"a")
    loop.started()
    loop.turn(2)
    assert loop.broker.values(OUT) == [b"a"]


def test_offsets_that_cannot_be_had_hold_the_partitions_back(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.broker.fail("commit_transaction", UNKNOWN, applied=True)
    loop.broker.fail("committed", UNKNOWN)
    loop.feed(b"a")
    loop.turn(2)
    assert loop.consumer.paused == {0}
    loop.turn(3)
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.consumer.paused == set()


# Producing


def test_a_full_queue_is_waited_for(make_loop: MakeLoop) -> None:
    loop = make_loop().started()
    loop.broker.queue_rows = 2
    loop.feed(b"a", b"b", b"c", b"d", b"e")
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"b", b"c", b"d", b"e"]


def test_an_output_too_large_is_a_dead_letter_of_its_row(make_loop: MakeLoop) -> None:
    loop = make_loop(max_output_bytes=10).started()
    loop.feed(b"a", b"b" * 20, b"c")
    loop.turn()
    assert loop.broker.values(OUT) == [b"a", b"c"]
    [letter] = loop.broker.log[DLQ]
    assert dict(letter.headers)[headers.DLQ_CLASS] == b"oversize"
    assert loop.broker.offsets == {(IN, 0): 3}


def test_an_output_too_large_without_a_row_stops_the_loop(make_loop: MakeLoop) -> None:
    loop = make_loop(max_output_bytes=10)

    def handle(batch: MessageBatch) -> HandledBatch:
        columns = OutputColumns(OUT, batch.keys, batch.values, [0] * len(batch))
        return HandledBatch([columns], terminal=len(batch))

    loop.handler.handle = handle
    loop.started()
    loop.feed(b"b" * 20)
    with pytest.raises(FatalError):
        loop.turn()


# At least once


def test_at_least_once_flushes_before_it_commits(make_loop: MakeLoop) -> None:
    loop = make_loop(delivery="at_least_once").started()
    loop.feed(b"a")
    loop.turn()
    assert loop.broker.calls.index("flush") < loop.broker.calls.index("commit")
    assert loop.broker.offsets == {(IN, 0): 1}


def test_at_least_once_reads_again_what_was_not_delivered(make_loop: MakeLoop) -> None:
    loop = make_loop(delivery="at_least_once").started()
    loop.broker.fail("flush", KafkaError(KafkaError._MSG_TIMED_OUT))
    loop.feed(b"a")
    loop.turn()
    assert loop.broker.offsets == {}
    loop.turn(2)
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.broker.offsets == {(IN, 0): 1}


# Ending


def test_stop_finishes_commits_and_leaves_the_group(make_loop: MakeLoop) -> None:
    loop = make_loop(max_transaction_rows=1_000, commit_interval_s=60.0)
    loop.feed(b"a")
    loop.consumer.assign(0)
    arrived = threading.Event()

    def handle(batch: MessageBatch) -> HandledBatch:
        arrived.set()
        return copied(batch)

    loop.handler.handle = handle
    thread = threading.Thread(target=loop.processor.run)
    thread.start()
    assert arrived.wait(5)
    loop.processor.stop()
    thread.join(5)
    assert loop.broker.values(OUT) == [b"a"]
    assert loop.consumer.is_closed


def test_an_unknown_exception_is_fatal_and_commits_nothing(make_loop: MakeLoop) -> None:
    loop = make_loop()
    loop.handler.errors = [ZeroDivisionError("handler")]
    loop.feed(b"a")
    loop.consumer.assign(0)
    with pytest.raises(FatalError, match="ZeroDivisionError"):
        loop.processor.run()
    assert loop.broker.offsets == {}
    assert loop.consumer.is_closed
