"""Dead letters of a real loop, replayed into it until the guard parks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from harness.loop import ANY_TIME, TIMEOUT_S, LoopWorld
from harness.replay import run_penstock
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def world(kafka_bootstrap: str) -> Iterator[LoopWorld]:
    made = LoopWorld(kafka_bootstrap)
    parked = f"{made.topic}.parked"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    for done in admin.create_topics([NewTopic(parked, 3, 1, config=ANY_TIME)]).values():
        done.result(TIMEOUT_S)
    yield made
    made.close()
    for gone in admin.delete_topics([parked]).values():
        gone.exception(TIMEOUT_S)


@pytest.mark.faults
def test_what_fails_for_ever_comes_back_three_times_and_is_parked(
    world: LoopWorld, registry_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pipelines" / "p"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(f"topics: {{events: {world.topic}}}\n")
    where = ["--bootstrap-servers", world.bootstrap, "--registry-url", registry_url]

    def replay() -> dict[str, int]:
        code, answer, err = run_penstock(tmp_path, "dlq", "replay", "p", "--yes", *where)
        assert code == 0, err
        counts: dict[str, int] = answer["counts"]
        return counts

    world.send(150)
    bad = len(world.dead())
    world.start()
    for attempt in (1, 2, 3, 4):
        letters = attempt * bad
        eventually(lambda n=letters: len(world.read(world.dlq)) == n, 60, "all have failed")
        found = Counter(dict(m.headers() or [])["dlq.attempt"] for m in world.read(world.dlq))
        assert found[b"%d" % attempt] == bad
        counts = replay()
        assert counts.get("parked" if attempt == 4 else "replayed") == bad
    assert replay() == {"already_done": 4 * bad}
    assert sorted(m.value() or b"" for m in world.read(f"{world.topic}.parked")) == world.dead()
