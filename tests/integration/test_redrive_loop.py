"""Dead letters of a real loop, replayed into it until the guard parks them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic
from harness.kafka import own_topics
from harness.loop import ANY_TIME, MakeGroup, WorkerGroup
from harness.replay import run_penstock
from harness.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def group(kafka_bootstrap: str, make_group: MakeGroup) -> Iterator[WorkerGroup]:
    made = make_group()
    parked = f"{made.topic}.parked"
    with own_topics(kafka_bootstrap, [NewTopic(parked, 3, 1, config=ANY_TIME)]):
        yield made


@pytest.mark.faults
def test_what_fails_for_ever_comes_back_three_times_and_is_parked(
    group: WorkerGroup, registry_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "pipelines" / "p"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(f"topics: {{events: {group.topic}}}\n")
    where = ["--bootstrap-servers", group.bootstrap, "--registry-url", registry_url]

    def replay() -> dict[str, int]:
        code, answer, err = run_penstock(tmp_path, "dlq", "replay", "p", "--yes", *where)
        assert code == 0, err
        counts: dict[str, int] = answer["counts"]
        return counts

    group.send(150)
    bad = len(group.dead())
    group.start()
    for attempt in (1, 2, 3, 4):
        letters = attempt * bad
        eventually(lambda n=letters: len(group.read(group.dlq)) == n, 60, "all have failed")
        found = Counter(dict(m.headers() or [])["dlq.attempt"] for m in group.read(group.dlq))
        assert found[b"%d" % attempt] == bad
        counts = replay()
        assert counts.get("parked" if attempt == 4 else "replayed") == bad
    assert replay() == {"already_done": 4 * bad}
    assert sorted(m.value() or b"" for m in group.read(f"{group.topic}.parked")) == group.dead()
