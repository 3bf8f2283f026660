"""Router replicas: killed ones come back, and two share the partitions."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient
from harness.clients import ProducerApp, Published, card_rows
from harness.faults import kill
from harness.judges import LedgerRun
from harness.stack import Stack
from harness.waiting import Background, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BACK_S = 60.0


def members(fraud: LedgerRun) -> list[int]:
    """Return how many partitions each member of inference's group has."""
    admin = AdminClient({"bootstrap.servers": fraud.bootstrap})
    group = fraud.topics.group("inference")
    found = admin.describe_consumer_groups([group], request_timeout=10.0)[group].result(10)
    return sorted(len(m.assignment.topic_partitions) for m in found.members)


@pytest.fixture
def two_replicas(stack: Stack, fraud: LedgerRun) -> Iterator[None]:
    stack.scale("fraud", 2)
    yield
    stack.scale("fraud", 1)
    eventually(lambda: len(stack.replicas("fraud")) == 1, BACK_S, "one replica again")
    eventually(lambda: members(fraud) == [4], BACK_S, "with all partitions")


def test_killed_replica_comes_back_by_itself(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int
) -> None:
    dead = stack.replicas("fraud")
    kill(dead)
    eventually(
        lambda: (now := stack.replicas("fraud")) and not set(now) & set(dead),
        BACK_S,
        "a new replica takes records",
    )
    published = cards.publish(card_rows(seed, 2_000), Published())
    fraud.drain(60)
    report = fraud.report(published)
    assert report.ok, str(report)
    assert report.predictions == published.events


def test_second_replica_takes_half_of_the_partitions(
    stack: Stack,
    fraud: LedgerRun,
    cards: ProducerApp,
    seed: int,
    in_background: Background,
    request: pytest.FixtureRequest,
) -> None:
    """Both the change of scale and what follows happen under load."""
    published, enough = Published(), threading.Event()
    rows = iter(card_rows(seed, 120_000))

    def publish() -> None:
        limited = (row for row in rows if not enough.is_set())
        cards.publish(limited, published, 1_000.0)

    assert members(fraud) == [4]
    publishing = in_background(publish)
    request.getfixturevalue("two_replicas")
    eventually(lambda: members(fraud) == [2, 2], BACK_S, "two members share four partitions")
    at = fraud.done("inference")
    eventually(lambda: fraud.done("inference") > at + 4_000, 60, "both go on")
    enough.set()
    publishing.join()
    fraud.drain(60)
    report = fraud.report(published)
    assert report.ok, str(report)
    assert report.predictions == published.events
    writers = {(p["origin"]["partition"], p["attempt"]) for p in fraud.decoded("predictions")}
    assert len({attempt for _, attempt in writers}) >= 2, "two replicas have written"
