"""Brokers bounced, frozen, away, and their replies lost: nothing lost, nothing twice."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient
from harness.fault_pipeline import FULL, SESSION_S, FaultWindow, ServedPipeline
from harness.faults import FrameProxy, LostReplies, frozen
from harness.services import counted
from harness.stack import Broker, Cluster
from harness.waiting import Background, eventually

MakePipeline = Callable[..., ServedPipeline]
MakeCluster = Callable[..., Cluster]
pytestmark = [pytest.mark.integration]

PACE = 1_000.0
RESUME_S = 60.0


def pause(seconds: float) -> None:
    """Let time pass between two faults."""
    threading.Event().wait(seconds)


def await_work(window: FaultWindow, more: int = 500) -> None:
    """Wait until inference has come further by some events."""
    target = more + eventually(
        lambda: window.run.done("inference") + 1, RESUME_S, "the broker tells offsets"
    )
    eventually(lambda: window.run.done("inference") >= target, RESUME_S, "the work goes on")


def await_every_partition(window: FaultWindow) -> None:
    """Wait until inference has come further everywhere: no partition waits through two faults."""

    def done() -> dict[int, int]:
        return window.run.done_by_partition("inference")

    before = eventually(done, RESUME_S, "the broker tells offsets")
    eventually(
        lambda: all(now > before[partition] for partition, now in done().items()),
        RESUME_S,
        "the work goes on in every partition",
    )


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("brokers", [1, 3])
def test_brokers_bounced(
    make_cluster: MakeCluster,
    make_pipeline: MakePipeline,
    seed: int,
    in_background: Background,
    brokers: int,
) -> None:
    """Clean and hard, five rounds; with three brokers always that which leads predictions."""
    cluster = make_cluster(brokers=brokers)
    pipeline = make_pipeline(cluster.bootstrap)
    pipeline.start_ingest()
    with FaultWindow(pipeline, f"F10 {brokers} brokers", seed) as window:
        router = pipeline.started_router()
        publishing = window.publishing(in_background, 75.0, PACE)
        for number in range(5):
            await_work(window)
            victim = leader(cluster, pipeline.topics.predictions)
            victim.stop(signal.SIGTERM if number % 2 else signal.SIGKILL)
            cluster.start()
            window.ended(f"bounce of broker {victim.node}")
        publishing.join()
        window.judge()
        assert router.stop() == 0


def leader(cluster: Cluster, topic: str) -> Broker:
    """Return the broker that leads the topic's first partition."""
    client = AdminClient({"bootstrap.servers": cluster.bootstrap})

    def look() -> int:
        return int(client.list_topics(topic, timeout=10).topics[topic].partitions[0].leader)

    node = eventually(lambda: max(0, look()), RESUME_S, "there is a leader")
    return next(broker for broker in cluster.brokers if broker.node == node)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("times", "shortest_s", "longest_s", "rejoin_s"),
    [(10 if FULL else 6, 5.0, 9.0, 30.0), (1, 30.0, 30.0, 8.0)],
)
def test_broker_frozen(
    make_cluster: MakeCluster,
    make_pipeline: MakePipeline,
    seed: int,
    in_background: Background,
    times: int,
    shortest_s: float,
    longest_s: float,
    rejoin_s: float,
) -> None:
    """For about as long as a session lasts, again and again; once until the router joins anew."""
    rng = random.Random(seed)
    cluster = make_cluster()
    pipeline = make_pipeline(cluster.bootstrap)
    pipeline.start_ingest()
    with FaultWindow(pipeline, f"F12 {times} times", seed) as window:
        router = pipeline.started_router(rejoin_timeout_s=rejoin_s)
        publishing = window.publishing(in_background, times * (longest_s + 3.0), 200.0)
        for _ in range(times):
            await_every_partition(window)
            frozen_s = rng.uniform(shortest_s, longest_s)
            with frozen(cluster.brokers[0].pids):
                pause(frozen_s)
            window.ended(f"SIGSTOP of the broker for {frozen_s:.1f} s")
        publishing.join()
        report = window.judge()
        assert router.stop() == 0
    assert set(report.dead_letters) <= {"decode"}, "an outage was drained into the dead letters"
    if shortest_s > SESSION_S + rejoin_s:
        anew = counted(pipeline.run_dir, "penstock_rebalances_total", kind="rejoined")
        assert anew, "the router has not lost its patience"


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_all_brokers_down(
    make_cluster: MakeCluster, make_pipeline: MakePipeline, seed: int, in_background: Background
) -> None:
    down_s = 300.0 if FULL else 60.0
    cluster = make_cluster()
    pipeline = make_pipeline(cluster.bootstrap)
    pipeline.start_ingest()
    with FaultWindow(pipeline, f"F15 {down_s:g} s", seed) as window:
        router = pipeline.started_router()
        publishing = window.publishing(in_background, down_s + 5.0, 200.0)
        await_work(window)
        cluster.brokers[0].stop(signal.SIGKILL)
        pause(down_s)
        cluster.start()
        window.ended("no broker")
        await_work(window, 1)
        publishing.join()
        report = window.judge()
        assert router.stop() == 0
    assert set(report.dead_letters) <= {"decode"}, "an outage was drained into the dead letters"


@pytest.fixture
def proxy(seed: int) -> Iterator[FrameProxy]:
    made = FrameProxy(LostReplies(seed))
    yield made
    made.close()


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_replies_to_commits_are_lost(
    make_cluster: MakeCluster, make_pipeline: MakePipeline, proxy: FrameProxy, seed: int
) -> None:
    lose_replies(make_cluster, make_pipeline, proxy, seed, commits=60, share=0.1)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_replies_to_a_thousand_commits_are_lost(
    make_cluster: MakeCluster, make_pipeline: MakePipeline, proxy: FrameProxy, seed: int
) -> None:
    lose_replies(make_cluster, make_pipeline, proxy, seed, commits=1_000, share=0.05)


def lose_replies(
    make_cluster: MakeCluster,
    make_pipeline: MakePipeline,
    proxy: FrameProxy,
    seed: int,
    *,
    commits: int,
    share: float,
) -> None:
    """F14: nobody tells two routers how some of their commits have ended.

    Only their own connections go through the proxy. A reply that is dropped or late is found
    missing after the loop's commit_timeout_s; a cut connection lets librdkafka ask again by itself.
    """
    cluster = make_cluster(proxied=proxy.port)
    proxy.target = cluster.brokers[0].behind
    pipeline = make_pipeline(
        cluster.bootstrap, batching="{max_batch_rows: 100, commit_interval_ms: 20}"
    )
    pipeline.start_ingest()
    with FaultWindow(pipeline, f"F14 {share:.0%}", seed) as window:
        pipeline.route_through(f"127.0.0.1:{proxy.port}")
        # While one waits for a reply that is lost, the other commits.
        facts = {"max_transaction_rows": 100, "commit_timeout_s": 1.5}
        routers = [pipeline.started_router(**facts) for _ in range(2)]
        proxy.lost.share = share

        def enough() -> bool:
            window.publish(100, rate=2_000.0)
            return proxy.lost.requests >= commits

        eventually(enough, 1_200, f"{commits} commits", every_s=0.01)
        proxy.lost.share = 0.0
        window.ended("lost replies")
        window.judge()
        recreated = counted(pipeline.run_dir, "penstock_transactions_total", result="recreated")
        window.note(f"{proxy.lost.requests} EndTxn, {proxy.lost.done}, {recreated:g} new producers")
        assert [router.stop() for router in routers] == [0, 0]
    assert sum(proxy.lost.done.values()) > 0, "no reply was lost"
    assert recreated >= proxy.lost.done["dropped"], "a commit of unknown outcome was taken for done"
