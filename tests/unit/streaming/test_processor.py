"""The decisions of the loop, on fakes: error to action, order, rebalance, unknown outcomes."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError
from harness.loop import (
    DLQ,
    IN,
    OUT,
    MakeRig,
    Recorder,
    Rig,
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


def test_records_and_offsets_are_committed_together(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.feed(b"a", b"b")
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b"]
    assert rig.broker.offsets == {(IN, 0): 2}
    assert rig.handler.named("committed") == [None]
    assert rig.count("penstock_records_total", outcome="output") == 2


def test_a_transaction_spans_batches_until_it_is_due(make_rig: MakeRig) -> None:
    rig = make_rig(max_transaction_rows=3, commit_interval_s=60.0, max_batch_rows=1).started()
    rig.feed(b"a", b"b", b"c")
    rig.turn(2)
    assert rig.broker.values(OUT) == []
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b", b"c"]
    assert rig.broker.calls.count("commit_transaction") == 1


def test_an_idle_worker_opens_no_transaction(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.turn(5)
    assert "begin_transaction" not in rig.broker.calls


def test_restore_comes_before_the_first_record_of_a_partition(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.feed(b"a")
    rig.started()
    rig.turn()
    names = [name for name, _ in rig.handler.events]
    assert names.index("assigned") < names.index("submit")


def test_a_dead_letter_leaves_its_neighbours_alone(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.handler.handle = lambda batch: copied(batch, [(1, DecodeError("bad magic"))])
    rig.started()
    rig.feed(b"a", b"b", b"c")
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"c"]
    [letter] = rig.broker.log[DLQ]
    assert (letter.value, letter.timestamp_ms) == (b"b", 1_000)
    assert dict(letter.headers)[headers.DLQ_ORIGIN] == f"{IN}/0/1".encode()
    assert rig.broker.offsets == {(IN, 0): 3}


def test_skips_only_still_move_the_offset(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.handler.handle = lambda batch: HandledBatch([], skipped={"tombstone": len(batch)})
    rig.started()
    rig.feed(None)
    rig.turn()
    assert rig.broker.offsets == {(IN, 0): 1}
    assert rig.count("penstock_records_total", outcome="tombstone") == 1


@pytest.mark.parametrize(
    "handled",
    [
        HandledBatch([]),
        HandledBatch([], terminal=3),
        HandledBatch([], dead_letters=[(0, DecodeError("x")), (0, DecodeError("x"))]),
        HandledBatch([], dead_letters=[(0, DecodeError("x")), (2, DecodeError("x"))]),
    ],
)
def test_a_row_without_one_outcome_stops_the_loop(make_rig: MakeRig, handled: HandledBatch) -> None:
    rig = make_rig()
    rig.handler.handle = lambda _: handled
    rig.started()
    rig.feed(b"a", b"b")
    with pytest.raises(FatalError):
        rig.turn()
    assert rig.broker.offsets == {}


def test_a_retryable_error_keeps_order_and_makes_no_dead_letter(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=1).started()
    rig.handler.errors = [ModelUnavailable("away"), ModelUnavailable("away")]
    rig.feed(b"a", b"b", b"c")
    rig.turn(2)
    assert rig.consumer.paused == {0}
    assert not rig.processor.ready
    rig.turn(8)
    assert rig.broker.values(OUT) == [b"a", b"b", b"c"]
    assert rig.broker.log[DLQ] == []
    assert rig.consumer.paused == set()
    assert rig.processor.ready
    assert rig.count("penstock_retries_total", error_type="ModelUnavailable") == 2


def test_waiting_for_a_dependency_polls_and_submits_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(retry_max_wait_s=60.0, idle_poll_s=0.001).started()
    rig.handler.errors = [ModelUnavailable("away", retry_after_s=50.0)]
    rig.feed(b"a")
    rig.turn(6)
    assert len(rig.handler.named("submit")) == 1
    rig.consumer.revoke(0)
    rig.turn()
    assert rig.handler.named("revoked") == [[0]]
    assert rig.processor._consumer.owned == set()


def test_what_is_done_is_committed_while_a_later_batch_waits(make_rig: MakeRig) -> None:
    rig = make_rig(
        max_batch_rows=1, retry_max_wait_s=60.0, max_transaction_rows=2, commit_interval_s=1e-9
    ).started()
    rig.feed(b"a")
    rig.turn()
    rig.handler.errors = [ModelUnavailable("away", retry_after_s=50.0)]
    rig.feed(b"b")
    rig.turn(2)
    assert rig.broker.offsets == {(IN, 0): 1}
    assert "abort_transaction" not in rig.broker.calls


def test_batches_in_flight_are_finished_in_the_order_they_were_read(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=1).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b")
    rig.turn(2)
    first, second = rig.handler.answers
    second.is_done = True
    rig.turn()
    assert rig.broker.values(OUT) == []
    first.is_done = True
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b"]


def test_a_failed_answer_is_submitted_again_before_later_ones_are_written(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(max_batch_rows=1).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b")
    rig.turn(2)
    first, second = rig.handler.answers
    first.is_done = second.is_done = True
    first.error = ModelUnavailable("away")
    rig.turn(2)
    assert rig.handler.named("submit") == [[b"a"], [b"b"], [b"a"]]
    rig.handler.answers[-1].is_done = True
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b"]


def test_small_batches_wait_for_each_other_and_grow(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=3).started()
    rig.handler.answers = []
    rig.feed(b"a")
    rig.turn()
    rig.feed(b"b", b"c")
    rig.turn()
    assert rig.handler.named("submit") == [[b"a"]]
    rig.handler.answers[0].is_done = True
    rig.turn(2)
    assert rig.handler.named("submit") == [[b"a"], [b"b", b"c"]]


def test_full_batches_overlap(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=2, max_in_flight=2).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b", b"c", b"d", b"e")
    rig.turn(3)
    assert rig.handler.named("submit") == [[b"a", b"b"], [b"c", b"d"]]


def test_offsets_of_batches_in_flight_are_not_committed(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=1).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b")
    rig.turn(2)
    rig.handler.answers[0].is_done = True
    rig.turn()
    assert rig.broker.offsets == {(IN, 0): 1}


def test_a_stateful_handler_commits_only_when_nothing_is_in_flight(make_rig: MakeRig) -> None:
    rig = make_rig(Stateful(), max_batch_rows=1).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b")
    rig.turn(2)
    rig.handler.answers[0].is_done = True
    rig.turn()
    assert rig.broker.offsets == {}
    rig.handler.answers[1].is_done = True
    rig.turn()
    assert rig.broker.offsets == {(IN, 0): 2}
    assert rig.broker.values("p.state") == [b"s"]
    assert rig.handler.events[-2:] == [("changelog", None), ("committed", None)]


@pytest.mark.parametrize(("handler", "settles"), [(Stateful(), True), (Stateless(), False)])
def test_state_changes_lie_in_the_log_before_the_offsets_are_sent(
    make_rig: MakeRig, handler: Recorder, settles: bool
) -> None:
    rig = make_rig(handler).started()
    rig.feed(b"a")
    rig.turn(3)
    calls = rig.broker.calls[rig.broker.calls.index("begin_transaction") :]
    before = calls[: calls.index("send_offsets_to_transaction")]
    acts = [call for call in before if call != "poll"]
    assert (acts[-1] == "flush") is settles


def test_a_stateful_handler_goes_back_when_its_answer_fails(make_rig: MakeRig) -> None:
    rig = make_rig(Stateful()).started()
    rig.handler.answers = []
    rig.feed(b"a")
    rig.turn()
    rig.handler.answers[0].is_done = True
    rig.handler.answers[0].error = ModelUnavailable("away")
    rig.turn()
    rig.handler.answers = None
    rig.turn(3)
    assert rig.handler.named("rolled_back") == [[0]]
    assert rig.broker.values(OUT) == [b"a"]


def test_a_slow_batch_pauses_the_partitions_and_flows_on_after(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=1, max_in_flight=1, stall_s=1e-9).started()
    rig.handler.answers = []
    rig.feed(b"a", b"b")
    rig.turn(3)
    assert rig.consumer.paused == {0}
    rig.handler.answers[0].is_done = True
    rig.turn()
    assert rig.consumer.paused == set()
    assert rig.broker.values(OUT) == [b"a"]


def test_an_unanswered_batch_is_submitted_again(make_rig: MakeRig) -> None:
    rig = make_rig(result_timeout_s=1e-9).started()
    rig.handler.answers = []
    rig.feed(b"a")
    rig.turn()
    rig.handler.answers = None
    rig.turn()
    assert rig.handler.named("submit") == [[b"a"], [b"a"]]
    assert rig.broker.values(OUT) == [b"a"]


# Rebalances


def open_transaction(make_rig: MakeRig, *partitions: int) -> Rig:
    """Return a rig with one record of each partition produced and not committed."""
    rig = make_rig(max_transaction_rows=1_000, commit_interval_s=60.0).started(*partitions)
    for partition in partitions:
        rig.feed(b"%d" % partition, partition=partition)
    rig.turn()
    assert rig.broker.values(OUT) == []
    return rig


def test_a_revoke_aborts_and_rewinds_what_is_kept(make_rig: MakeRig) -> None:
    rig = open_transaction(make_rig, 0, 1)
    rig.consumer.revoke(1)
    rig.feed(b"x", partition=0)
    rig.turn()
    assert [r.value for r in rig.broker.aborted] == [b"0", b"1"]
    assert rig.handler.named("revoked") == [[1]]
    assert rig.handler.named("rolled_back") == [[0]]
    rig.turn(2)
    rig.processor._drain()
    assert rig.broker.values(OUT) == [b"0", b"x"]
    assert rig.broker.offsets == {(IN, 0): 2}


def test_a_revoke_without_open_work_keeps_records_of_other_partitions(make_rig: MakeRig) -> None:
    rig = make_rig().started(0, 1)
    rig.consumer.revoke(1)
    rig.feed(b"a", partition=0)
    rig.turn()
    assert rig.broker.values(OUT) == [b"a"]
    assert rig.handler.named("rolled_back") == []
    assert "abort_transaction" not in rig.broker.calls


def test_lost_partitions_drop_the_batches_in_flight(make_rig: MakeRig) -> None:
    rig = make_rig(max_batch_rows=1).started()
    rig.handler.answers = []
    rig.feed(b"a")
    rig.turn()
    rig.consumer.lose(0)
    rig.turn()
    rig.handler.answers[0].is_done = True
    rig.turn(2)
    assert rig.broker.values(OUT) == []
    assert rig.broker.offsets == {}
    assert rig.handler.named("rolled_back") == []


def test_records_of_a_new_partition_wait_for_a_restore_that_fails(make_rig: MakeRig) -> None:
    rig = make_rig()
    failures = [ModelUnavailable("changelog away")]

    def assigned(partitions: object, deadline_s: float) -> None:
        if failures:
            raise failures.pop()
        rig.handler.events.append(("assigned", partitions))

    rig.handler.assigned = assigned  # type: ignore[method-assign]
    rig.feed(b"a")
    rig.consumer.assign(0)
    rig.turn()
    assert rig.handler.named("submit") == []
    rig.turn(2)
    assert rig.broker.values(OUT) == [b"a"]


def test_a_partition_that_comes_as_another_goes_is_restored_and_not_rolled_back(
    make_rig: MakeRig,
) -> None:
    rig = open_transaction(make_rig, 0, 1)
    rig.consumer.revoke(1)
    rig.consumer.assign(2)
    rig.turn(2)
    assert rig.handler.named("rolled_back") == [[0]]
    assert rig.handler.named("assigned") == [[0, 1], [2]]


def test_partitions_lost_and_won_again_in_one_poll_are_restored(make_rig: MakeRig) -> None:
    rig = open_transaction(make_rig, 0)
    rig.consumer.lose(0)
    rig.consumer.assign(0)
    rig.turn(3)
    rig.processor._drain()
    assert rig.handler.named("rolled_back") == []
    assert rig.handler.named("assigned") == [[0], [0]]
    assert rig.broker.values(OUT) == [b"0"]


def test_counters_count_what_is_committed_and_nothing_twice(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.handler.handle = lambda batch: copied(batch, [(1, DecodeError("x"))])
    rig.started()
    rig.broker.fail("commit_transaction", ABORTABLE)
    rig.feed(b"a", b"b")
    rig.turn()
    assert rig.count("penstock_records_total", outcome="output") == 0
    rig.turn(2)
    assert rig.count("penstock_records_total", outcome="output") == 1
    assert rig.count("penstock_records_total", outcome="dead_letter") == 1
    assert rig.count("penstock_dead_letters_total", **{"class": "decode"}) == 1


def test_a_lost_membership_is_never_committed(make_rig: MakeRig) -> None:
    rig = open_transaction(make_rig, 0)
    rig.consumer.member = ""
    rig.processor._drain()
    assert "send_offsets_to_transaction" not in rig.broker.calls
    assert rig.broker.offsets == {}


# Transactions that fail


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize("applied", [True, False])
def test_an_unknown_outcome_makes_a_new_producer_and_neither_loses_nor_doubles(
    make_rig: MakeRig, call: str, applied: bool
) -> None:
    rig = make_rig().started()
    rig.broker.fail(call, UNKNOWN, applied=applied)
    rig.feed(b"a", b"b")
    rig.turn(4)
    assert rig.broker.values(OUT) == [b"a", b"b"]
    assert rig.broker.offsets == {(IN, 0): 2}
    assert len(rig.clients.producers) == 2
    assert rig.broker.calls.count("init_transactions") == 2
    assert rig.handler.named("rolled_back") == [[0]]
    assert rig.count("penstock_transactions_total", result="recreated") == 1


def test_a_producer_that_lost_a_connection_begins_no_transaction(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.feed(b"a")
    rig.turn(3)
    rig.clients.producers[0].met.append(KafkaError(KafkaError._TRANSPORT))
    before = rig.broker.calls.count("begin_transaction")
    rig.feed(b"b")
    rig.turn(4)
    assert rig.broker.values(OUT) == [b"a", b"b"]
    assert rig.broker.offsets == {(IN, 0): 2}
    assert len(rig.clients.producers) == 2
    assert rig.broker.calls.count("begin_transaction") == before + 1
    assert rig.count("penstock_transactions_total", result="recreated") == 1


def test_a_producer_that_loses_a_connection_adds_no_offsets_and_leaves(make_rig: MakeRig) -> None:
    rig = make_rig(max_transaction_rows=2, commit_interval_s=60.0, max_batch_rows=1).started()
    rig.feed(b"a")
    rig.turn(3)
    rig.clients.producers[0].met.append(KafkaError(KafkaError._TRANSPORT))
    rig.feed(b"b")
    rig.turn(6)
    assert rig.broker.values(OUT) == [b"a", b"b"]
    assert rig.broker.offsets == {(IN, 0): 2}
    assert len(rig.clients.producers) == 2
    assert rig.broker.calls.count("send_offsets_to_transaction") == 1
    left, dropped = (rig.broker.calls.index(call) for call in ("abort_transaction", "purge"))
    assert left < dropped, "the client was dropped within its transaction"
    assert [r.value for r in rig.broker.aborted] == [b"a", b"b"]


def test_what_a_producer_met_on_its_way_to_its_id_is_over(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.broker.hindrances.append(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    rig.started()
    rig.feed(b"a")
    rig.turn(4)
    assert rig.broker.values(OUT) == [b"a"]
    assert len(rig.clients.producers) == 1


def test_an_abortable_error_aborts_and_reads_again(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.broker.fail("commit_transaction", STALE)
    rig.feed(b"a")
    rig.turn(3)
    assert [r.value for r in rig.broker.aborted] == [b"a"]
    assert rig.broker.values(OUT) == [b"a"]
    assert len(rig.clients.producers) == 1


def test_a_failing_abort_makes_a_new_producer(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.broker.fail("commit_transaction", ABORTABLE)
    rig.broker.fail("abort_transaction", UNKNOWN)
    rig.feed(b"a")
    rig.turn(3)
    assert len(rig.clients.producers) == 2
    assert rig.broker.values(OUT) == [b"a"]


def test_a_retriable_commit_is_repeated_on_the_same_producer(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    again = KafkaError(KafkaError._TIMED_OUT, "slow", False, True, False)
    rig.broker.fail("commit_transaction", again)
    rig.feed(b"a")
    rig.turn()
    assert rig.broker.values(OUT) == [b"a"]
    assert len(rig.clients.producers) == 1


def test_a_retriable_commit_that_stays_away_counts_as_unknown(make_rig: MakeRig) -> None:
    rig = make_rig(commit_timeout_s=1e-9).started()
    rig.broker.fail(
        "commit_transaction", KafkaError(KafkaError._TIMED_OUT, "slow", False, True, False)
    )
    rig.feed(b"a")
    rig.turn(3)
    assert len(rig.clients.producers) == 2
    assert rig.broker.values(OUT) == [b"a"]


def test_fencing_is_survived_within_the_budget_and_then_ends_the_worker(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(fenced_budget=1).started()
    rig.broker.fail("commit_transaction", FENCED)
    rig.feed(b"a")
    rig.turn(3)
    assert rig.broker.values(OUT) == [b"a"]
    rig.broker.fail("commit_transaction", FENCED)
    rig.feed(b"b")
    with pytest.raises(FencedError):
        rig.turn()


@pytest.mark.parametrize("error", [FENCED, KafkaError(KafkaError._FATAL, "x", True, False, False)])
def test_a_fatal_error_told_while_polling_makes_a_new_producer(
    make_rig: MakeRig, error: KafkaError
) -> None:
    rig = make_rig().started()
    rig.broker.fail("poll", error)
    rig.broker.fail("abort_transaction", error)
    rig.feed(b"a")
    rig.turn(3)
    assert rig.broker.values(OUT) == [b"a"]
    assert len(rig.clients.producers) == 2


def test_aborts_in_a_row_end_the_worker(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    for _ in range(30):
        rig.broker.fail("commit_transaction", ABORTABLE)
    rig.feed(b"a")
    with pytest.raises(DeliveryFailed):
        rig.turn(200)


def test_an_error_that_no_new_producer_cures_ends_the_worker(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    wrong = KafkaError(KafkaError._INVALID_ARG, "wrong", False, False, False)
    for _ in range(30):
        rig.broker.fail("begin_transaction", wrong)
    rig.feed(b"a")
    with pytest.raises(DeliveryFailed, match="21 producers lost in a row: _INVALID_ARG"):
        rig.turn(200)
    assert rig.broker.offsets == {}


def test_no_number_of_lost_answers_ends_the_worker(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    for _ in range(30):
        rig.broker.fail("commit_transaction", UNKNOWN)
    rig.feed(b"a")
    rig.turn(200)
    assert rig.broker.values(OUT) == [b"a"]


def test_a_producer_lost_again_is_waited_with(make_rig: MakeRig) -> None:
    rig = make_rig(retry_max_wait_s=60.0).started()
    for _ in range(2):
        rig.broker.fail("commit_transaction", UNKNOWN)
    rig.feed(b"a")
    rig.turn(20)
    assert rig.processor._recovery.outage.is_active
    assert rig.broker.calls.count("commit_transaction") == 2


def test_an_undeliverable_record_ends_the_worker_at_once(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    large = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large", False, False, True)
    rig.broker.fail("commit_transaction", large)
    rig.feed(b"a")
    with pytest.raises(DeliveryFailed):
        rig.turn()


def test_no_broker_at_the_start_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.broker.fail("init_transactions", UNKNOWN)
    rig.feed(b"a")
    rig.started()
    rig.turn(2)
    assert rig.broker.values(OUT) == [b"a"]


def test_offsets_that_cannot_be_had_hold_the_partitions_back(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.broker.fail("commit_transaction", UNKNOWN, applied=True)
    rig.broker.fail("committed", UNKNOWN)
    rig.feed(b"a")
    rig.turn(2)
    assert rig.consumer.paused == {0}
    rig.turn(3)
    assert rig.broker.values(OUT) == [b"a"]
    assert rig.consumer.paused == set()


# Producing


def test_a_full_queue_is_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig().started()
    rig.broker.queue_rows = 2
    rig.feed(b"a", b"b", b"c", b"d", b"e")
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"b", b"c", b"d", b"e"]


def test_an_output_too_large_is_a_dead_letter_of_its_row(make_rig: MakeRig) -> None:
    rig = make_rig(max_output_bytes=10).started()
    rig.feed(b"a", b"b" * 20, b"c")
    rig.turn()
    assert rig.broker.values(OUT) == [b"a", b"c"]
    [letter] = rig.broker.log[DLQ]
    assert dict(letter.headers)[headers.DLQ_CLASS] == b"oversize"
    assert rig.broker.offsets == {(IN, 0): 3}


def test_an_output_too_large_without_a_row_stops_the_loop(make_rig: MakeRig) -> None:
    rig = make_rig(max_output_bytes=10)

    def handle(batch: MessageBatch) -> HandledBatch:
        columns = OutputColumns(OUT, batch.keys, batch.values, [0] * len(batch))
        return HandledBatch([columns], terminal=len(batch))

    rig.handler.handle = handle
    rig.started()
    rig.feed(b"b" * 20)
    with pytest.raises(FatalError):
        rig.turn()


# At least once


def test_at_least_once_flushes_before_it_commits(make_rig: MakeRig) -> None:
    rig = make_rig(delivery="at_least_once").started()
    rig.feed(b"a")
    rig.turn()
    assert rig.broker.calls.index("flush") < rig.broker.calls.index("commit")
    assert rig.broker.offsets == {(IN, 0): 1}


def test_at_least_once_reads_again_what_was_not_delivered(make_rig: MakeRig) -> None:
    rig = make_rig(delivery="at_least_once").started()
    rig.broker.fail("flush", KafkaError(KafkaError._MSG_TIMED_OUT))
    rig.feed(b"a")
    rig.turn()
    assert rig.broker.offsets == {}
    rig.turn(2)
    assert rig.broker.values(OUT) == [b"a"]
    assert rig.broker.offsets == {(IN, 0): 1}


# Ending


def test_stop_finishes_commits_and_leaves_the_group(make_rig: MakeRig) -> None:
    rig = make_rig(max_transaction_rows=1_000, commit_interval_s=60.0)
    rig.feed(b"a")
    rig.consumer.assign(0)
    arrived = threading.Event()

    def handle(batch: MessageBatch) -> HandledBatch:
        arrived.set()
        return copied(batch)

    rig.handler.handle = handle
    thread = threading.Thread(target=rig.processor.run)
    thread.start()
    assert arrived.wait(5)
    rig.processor.stop()
    thread.join(5)
    assert rig.broker.values(OUT) == [b"a"]
    assert rig.consumer.is_closed


def test_an_unknown_exception_is_fatal_and_commits_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.handler.errors = [ZeroDivisionError("handler")]
    rig.feed(b"a")
    rig.consumer.assign(0)
    with pytest.raises(FatalError, match="ZeroDivisionError"):
        rig.processor.run()
    assert rig.broker.offsets == {}
    assert rig.consumer.is_closed
