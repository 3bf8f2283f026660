"""The routing topic on a real broker: compare-and-set among rivals, followers see every state."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from penstock_registry.schema_registry import RegistryClient, RegistrySettings
from penstock_routing.topic import RoutingTopic
from penstock_schemas.errors import BrokerUnavailable, FatalError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_streaming.settings import KafkaSettings

pytestmark = pytest.mark.integration

Make = Callable[[RoutingState | None], RoutingState]


@pytest.fixture
def topic(kafka_bootstrap: str) -> Iterator[str]:
    name = f"routing-{uuid.uuid4().hex[:8]}"
    new = NewTopic(name, 1, 1, config={"cleanup.policy": "compact"})
    with own_topics(kafka_bootstrap, [new]):
        yield name


@pytest.fixture
def routing(kafka_bootstrap: str, registry_url: str, topic: str) -> Callable[[], RoutingTopic]:
    kafka = KafkaSettings(bootstrap_servers=kafka_bootstrap)
    registry = RegistryClient(RegistrySettings(url=registry_url))
    # The transactional id is made from the name: one of its own for each test.
    return lambda: RoutingTopic(kafka, registry, topic, topic)


def by(writer: str, revision: int | None = None) -> Make:
    def make(now: RoutingState | None) -> RoutingState:
        version = ModelVersion("m", "1", "m__1", "champion", 100, "sha256:0", "run", "serving")
        following = 1 if now is None else now.revision + 1
        return RoutingState("p", revision or following, 123, writer, (version,))

    return make


def test_what_is_written_is_in_force(routing: Callable[[], RoutingTopic]) -> None:
    assert routing().latest(20) is None
    written = routing().write(by("a"), 30)
    assert written.revision == 1
    assert routing().latest(20) == written
    assert routing().write(by("b"), 30).revision == 2


def test_same_state_writes_nothing(routing: Callable[[], RoutingTopic]) -> None:
    written = routing().write(by("a"), 30)

    def keep(now: RoutingState | None) -> RoutingState:
        assert now is not None
        return now

    assert routing().write(keep, 30) == written


def test_wrong_revision_is_refused(routing: Callable[[], RoutingTopic]) -> None:
    with pytest.raises(FatalError, match="expected revision 1, got 7"):
        routing().write(by("a", revision=7), 30)
    assert routing().latest(20) is None


def test_rivals_never_overwrite_each_other(routing: Callable[[], RoutingTopic]) -> None:
    seen: list[tuple[int, str]] = []
    stop = threading.Event()
    follower = threading.Thread(
        target=routing().follow,
        args=(stop, lambda state: seen.append((state.revision, state.updated_by))),
    )
    follower.start()
    mine: dict[str, list[int]] = {"x": [], "y": []}

    def write(name: str) -> None:
        for _ in range(3):
            mine[name].append(routing().write(by(name), 90).revision)

    writers = [threading.Thread(target=write, args=(name,)) for name in mine]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    last = routing().latest(20)
    waited = threading.Event()
    for _ in range(100):
        if seen and last is not None and seen[-1][0] == last.revision:
            break
        waited.wait(0.1)
    stop.set()
    follower.join(20)
    assert sorted(mine["x"] + mine["y"]) == [1, 2, 3, 4, 5, 6]
    assert seen == sorted(seen)
    assert seen[-1] == (6, last.updated_by if last else "")


def test_unreadable_record_is_passed_over(
    routing: Callable[[], RoutingTopic], kafka_bootstrap: str, topic: str
) -> None:
    written = routing().write(by("a"), 30)
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    producer.produce(topic, b"junk", topic.encode())
    assert producer.flush(20) == 0
    assert routing().latest(20) == written


def test_missing_topic_is_an_outage(kafka_bootstrap: str, registry_url: str) -> None:
    absent = RoutingTopic(
        KafkaSettings(bootstrap_servers=kafka_bootstrap),
        RegistryClient(RegistrySettings(url=registry_url)),
        f"absent-{uuid.uuid4().hex[:8]}",
        "p",
    )
    with pytest.raises(BrokerUnavailable, match="end was not reached"):
        absent.latest(3)
