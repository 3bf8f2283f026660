"""The model server or the registry away, silent or slow: services wait, nothing dies of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from harness.clients import avro_encoder, register_schema
from harness.fault_pipeline import (
    FULL,
    FaultWindow,
    ServedPipeline,
    assert_nothing_dies,
    await_standstill,
    circuit,
    rebalances,
    registry_behind,
    resident_mib,
    seen_through,
    set_timeout,
)
from harness.faults import OutageProxy
from harness.services import BareRouter, counted
from harness.waiting import Background, eventually, holds_for

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration]

PACE = 500.0
HOW = ["down", pytest.param("hang", marks=pytest.mark.faults)]
OPENS_S = 5.0
BACK_S = 60.0
GROWTH_MIB = 48.0
"""What a router may take for its queues and prefetch while it cannot work."""
IN_FLIGHT = 2


@pytest.fixture
def triton(pipeline: ServedPipeline) -> Iterator[OutageProxy]:
    with OutageProxy(pipeline.addresses.triton_grpc) as proxy:
        yield proxy


@pytest.fixture
def registry(pipeline: ServedPipeline) -> Iterator[OutageProxy]:
    target = pipeline.addresses.registry.partition("://")[2].partition("/")[0]
    with OutageProxy(target) as proxy:
        yield proxy


def routed(pipeline: ServedPipeline, triton: OutageProxy, **loop: float) -> BareRouter:
    with seen_through(pipeline, triton_grpc=triton.address):
        return pipeline.started_router(**loop)


def go_on(window: FaultWindow, router: BareRouter) -> None:
    at = window.run.done("inference")
    eventually(lambda: window.run.done("inference") > at, BACK_S, "it goes on")
    assert router.process.poll() is None, "the router has died of it"


@pytest.mark.timeout(900 if FULL else 300)
@pytest.mark.parametrize("how", HOW)
def test_model_server_away_opens_the_circuit_and_loses_nothing(
    pipeline: ServedPipeline, triton: OutageProxy, seed: int, in_background: Background, how: str
) -> None:
    away_s = 600.0 if FULL else 6.0
    pipeline.start_ingest()
    with FaultWindow(pipeline, f"F22 {how}", seed) as window:
        router = routed(pipeline, triton)
        publishing = window.publishing(in_background, away_s + 12.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        moves, before = rebalances(pipeline), resident_mib(router)
        triton.down() if how == "down" else triton.hang()
        began = window.age_s
        eventually(lambda: not circuit(pipeline, "closed"), OPENS_S, "it opens", every_s=0.05)
        opened_s = window.age_s - began
        done = await_standstill(window)
        assert_nothing_dies(window, done, away_s)
        grown = resident_mib(router) - before
        triton.up()
        window.ended(f"model server {how}")
        go_on(window, router)
        eventually(lambda: circuit(pipeline, "closed"), BACK_S, "the circuit closes")
        publishing.join()
        window.judge()
        window.note(f"opened after {opened_s:.1f} s, {grown:.0f} MiB grown")
        assert rebalances(pipeline) == moves
        assert grown <= GROWTH_MIB
        assert router.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_slow_model_server_is_waited_for(
    pipeline: ServedPipeline, triton: OutageProxy, seed: int, in_background: Background
) -> None:
    """Fifty times slower, and then slower than its deadline of two seconds."""
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F23", seed) as window:
        router = routed(pipeline, triton)
        publishing = window.publishing(in_background, 40.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        before = resident_mib(router)
        triton.slow(0.15)
        at = window.run.done("inference")
        eventually(lambda: window.run.done("inference") > at + 1_000, BACK_S, "it works, slowly")
        assert counted(pipeline.run_dir, "penstock_in_flight_batches") <= IN_FLIGHT
        assert counted(pipeline.run_dir, "penstock_model_deadline_hits_total") == 0
        triton.slow(3.0)
        hits = eventually(
            lambda: counted(pipeline.run_dir, "penstock_model_deadline_hits_total"),
            BACK_S,
            "deadline hits are counted",
        )
        eventually(lambda: circuit(pipeline, "open"), BACK_S, "the circuit opens", every_s=0.05)
        done = await_standstill(window)
        assert_nothing_dies(window, done, 5.0)
        assert counted(pipeline.run_dir, "penstock_in_flight_batches") <= IN_FLIGHT
        grown = resident_mib(router) - before
        triton.up()
        window.ended("slow model server")
        go_on(window, router)
        publishing.join()
        window.judge()
        window.note(f"{hits:.0f} deadline hits, {grown:.0f} MiB grown")
        assert grown <= GROWTH_MIB
        assert router.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_call_longer_than_the_poll_interval_costs_no_rebalance(
    pipeline: ServedPipeline, triton: OutageProxy, seed: int, in_background: Background
) -> None:
    interval_s, call_s = 6.0, 10.0
    set_timeout(pipeline, 25.0)
    pipeline.start_ingest()
    with FaultWindow(pipeline, "F19", seed) as window:
        router = routed(pipeline, triton, max_poll_interval_s=interval_s)
        publishing = window.publishing(in_background, 30.0, PACE)
        eventually(lambda: window.run.done("inference") > 1_000, BACK_S, "work is under way")
        moves = rebalances(pipeline)
        triton.slow(call_s)
        stopped = await_standstill(window)
        eventually(lambda: window.run.done("inference") > stopped, 2 * call_s, "one call's worth")
        triton.up()
        window.ended("slow calls")
        publishing.join()
        window.judge()
        assert rebalances(pipeline) == moves
        assert router.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", HOW)
def test_registry_away_at_the_start_and_for_an_unknown_id(
    pipeline: ServedPipeline, registry: OutageProxy, seed: int, how: str
) -> None:
    """What has been asked for once goes on; what has not is waited for, and never a dead letter."""
    away = registry.down if how == "down" else registry.hang
    note = {"name": "note", "type": ["null", "string"], "default": None}
    event = json.loads(pipeline.loaded.event_schema)
    newer = json.dumps({**event, "fields": [*event["fields"], note]})
    with FaultWindow(pipeline, f"F26 {how}", seed) as window:
        away()
        with seen_through(pipeline, registry=registry_behind(pipeline, registry.address)):
            ingest, router = pipeline.start_ingest(), pipeline.start_router()
        window.publish(300)
        holds_for(lambda: window.run.done("ingest") == 0, 8.0, "nothing is worked on")
        registry.up()
        window.ended("registry away at the start")
        window.run.drain(BACK_S)
        assert not window.run.count("events_dlq") - len(window.published.bad)
        away()
        window.publish(1_000)
        window.run.drain(BACK_S)  # every id is known
        unknown = register_schema(
            pipeline.addresses.registry, f"{pipeline.topics.events}-value", newer
        )
        pipeline.producer.encode = avro_encoder(newer, unknown)
        done = window.run.done("ingest")
        window.publish(200)
        eventually(lambda: window.run.backlog("ingest") > 0, BACK_S, "an unknown id is waited for")
        dead = window.run.count("events_dlq")
        holds_for(lambda: window.run.backlog("ingest") > 0, 8.0, "it goes on waiting")
        assert window.run.done("ingest") - done < 200
        assert window.run.count("events_dlq") == dead, "an outage has made dead letters"
        registry.up()
        window.ended("registry away for an unknown id")
        window.judge()
        assert ingest.poll() is None
        assert router.stop() == 0
