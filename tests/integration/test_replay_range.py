"""``penstock replay`` and ``penstock offsets`` on a real broker."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness.kafka import delete_records
from harness.replay import (
    MS,
    PARTITIONS,
    TIMEOUT_S,
    ReplayedPipeline,
    as_replayed,
    content,
    copies,
)

pytestmark = pytest.mark.integration
SIGKILLED = -9


class TestInPlace:
    def test_time_and_key_select_exactly_and_copies_are_true(self, replayed) -> None:
        events = replayed.send(90)
        since, until = MS + 20_000, MS + 70_000
        wanted = [
            m
            for m in events
            if since <= m.timestamp()[1] < until and m.key() in (b"key-1", b"key-4")
        ]
        command = ["replay", replayed.topics.events, "--from", since, "--to", until]
        command += ["--key", "key-1", "--key", "key-4"]
        dry = replayed.penstock(*command, "--dry-run")
        per_partition = Counter(m.partition() for m in wanted)
        assert {p["partition"]: p["selected"] for p in dry["partitions"]} == per_partition
        assert len(replayed.read(replayed.topics.events)) == 90
        assert replayed.audited(replayed.topics.events) == []

        done = replayed.penstock(*command)
        assert done["counts"]["selected"] == len(wanted)
        found = copies(replayed, replayed.topics.events, events)
        assert Counter(map(content, found)) == Counter(map(as_replayed, wanted))
        # In each partition they lie in the order of their originals.
        for partition in range(PARTITIONS):
            mine = [content(m)[2] for m in found if m.partition() == partition]
            assert mine == [content(m)[2] for m in wanted if m.partition() == partition]

    def test_done_is_refused_and_again_takes_no_copies(self, replayed) -> None:
        events = replayed.send(12)
        command = ("replay", replayed.topics.events, "--from", "start", "--to", "end")
        replayed.penstock(*command)
        refused = replayed.penstock(*command, expect=4)
        assert "--again" in refused["stderr"]
        again = replayed.penstock(*command, "--again")
        assert again["counts"] == {"selected": 12, "copy": 12}
        found = copies(replayed, replayed.topics.events, events)
        assert Counter(map(content, found)) == Counter([*map(as_replayed, events)] * 2)
        outcomes = [e.outcome for e in replayed.audited(replayed.topics.events) if e.phase == "end"]
        assert outcomes == ["succeeded", "succeeded"]

    def test_only_events_topics_are_replayed_in_place(self, replayed) -> None:
        replayed.send(3, topic=replayed.topics.features)
        ends = ("--from", "start", "--to", "end")
        refused = replayed.penstock("replay", replayed.topics.features, *ends, expect=4)
        assert "--to-topic" in refused["stderr"]
        target = ("--to-topic", replayed.topics.features)
        refused = replayed.penstock("replay", replayed.topics.events, *ends, *target, expect=4)
        assert "is a topic of a pipeline" in refused["stderr"]
        assert len(replayed.read(replayed.topics.features)) == 3

    def test_what_retention_has_passed_is_refused(self, replayed) -> None:
        replayed.send(30)
        delete_records(replayed.bootstrap, replayed.topics.events, 0, before=5)
        for since in ("@2", str(MS)):
            command = ("replay", replayed.topics.events, "--from", since, "--to", "end")
            assert "retention" in replayed.penstock(*command, expect=4)["stderr"]
        command = ("replay", replayed.topics.events, "--from", "start", "--to", "end")
        assert replayed.penstock(*command)["counts"] == {"selected": 25}


class TestIsolated:
    def test_copies_go_to_a_topic_of_their_own_at_the_rate(self, replayed) -> None:
        events = replayed.send(400)
        target = f"{replayed.name}.isolated"
        replayed.made.add(target)
        begun = time.monotonic()
        done = replayed.penstock(
            *("replay", replayed.topics.events, "--from", "@0", "--to", "@100"),
            *("--to-topic", target, "--rate", "50"),
        )
        elapsed_s = time.monotonic() - begun
        assert done["counts"] == {"selected": 300}
        found = replayed.read(target)
        wanted = [m for m in events if (m.offset() or 0) < 100]
        assert Counter(map(content, found)) == Counter(map(as_replayed, wanted))
        assert len(replayed.read(replayed.topics.events)) == 400
        begin, *_, end = replayed.audited(replayed.topics.events)
        assert (begin.phase, end.phase) == ("begin", "end")
        rate = 300 / ((end.at - begin.at) / 1000)
        assert rate == pytest.approx(50, rel=0.1)
        assert elapsed_s > 5.4

    def test_traffic_after_the_start_is_not_taken(self, replayed) -> None:
        events = replayed.send(60)
        target = f"{replayed.name}.isolated"
        replayed.made.add(target)
        command = ["replay", replayed.topics.events, "--from", "start", "--to", "end"]
        command += ["--to-topic", target, "--rate", "30"]
        replayed.penstock(*command, expect=SIGKILLED, fail_point="mid_copy:20")
        replayed.send(60, first=60)
        replayed.penstock(*command)
        assert Counter(map(content, replayed.read(target))) == Counter(map(as_replayed, events))

    @pytest.mark.faults
    @pytest.mark.parametrize(
        "points",
        [
            ("mid_copy:50", "before_commit:2", "after_commit:2"),
            ("during_commit:2", "during_commit:3", "mid_copy:7"),
        ],
        ids="-".join,
    )
    def test_killed_again_and_again_it_copies_each_once(self, replayed, points) -> None:
        events = replayed.send(300)
        target = f"{replayed.name}.isolated"
        replayed.made.add(target)
        command = ["replay", replayed.topics.events, "--from", "start", "--to", "end"]
        command += ["--to-topic", target, "--rate", "60"]
        for point in points:
            replayed.penstock(*command, expect=SIGKILLED, fail_point=point)
        done = replayed.penstock(*command[:-2])
        assert done["resumed"] is True
        assert done["counts"] == {"selected": 300}
        assert Counter(map(content, replayed.read(target))) == Counter(map(as_replayed, events))
        # The kills have left something behind, or they have not bitten.
        assert len(replayed.read(target, "read_uncommitted")) > 300
        begins = [e for e in replayed.audited(replayed.topics.events) if e.phase == "begin"]
        assert len(begins) == 1


class TestOffsets:
    @pytest.fixture
    def group(self, replayed) -> Iterator[str]:
        group = f"penstock-ingest-{replayed.name}"
        with Consumer({"bootstrap.servers": replayed.bootstrap, "group.id": group}) as consumer:
            events = replayed.topics.events
            consumer.commit(
                offsets=[TopicPartition(events, p, 7) for p in range(PARTITIONS)],
                asynchronous=False,
            )
        yield group
        admin = AdminClient({"bootstrap.servers": replayed.bootstrap})
        for future in admin.delete_consumer_groups([group]).values():
            future.exception(TIMEOUT_S)

    def committed(self, replayed: ReplayedPipeline, group: str) -> dict[int, int]:
        rows = replayed.penstock("offsets", "show", "--group", group)["offsets"]
        return {row["partition"]: row["committed"] for row in rows}

    def test_show_by_pipeline_and_seek_in_every_way(self, replayed, group, tmp_path: Path) -> None:
        replayed.send(30)
        rows = replayed.penstock("offsets", "show", "--group", replayed.name)["offsets"]
        assert [(r["group"], r["committed"], r["end"], r["lag"]) for r in rows] == [
            (group, 7, 10, 3)
        ] * PARTITIONS

        seek = ("offsets", "seek", "--group", group)
        dry = replayed.penstock(*seek, "--to", "end")
        assert dry["dry_run"] is True
        assert self.committed(replayed, group) == {0: 7, 1: 7, 2: 7}
        replayed.penstock(*seek, "--to", "end", "--yes")
        assert self.committed(replayed, group) == {0: 10, 1: 10, 2: 10}

        refused = replayed.penstock(*seek, "--to", "start", "--yes", expect=4)
        assert "--accept-duplicates" in refused["stderr"]
        replayed.penstock(*seek, "--to", MS + 15_000, "--yes", "--accept-duplicates")
        assert self.committed(replayed, group) == {0: 5, 1: 5, 2: 5}
        file = tmp_path / "offsets"
        file.write_text(f"# by hand\n{replayed.topics.events} 1 9\n")
        replayed.penstock(*seek, "--file", file, "--yes")
        assert self.committed(replayed, group) == {0: 5, 1: 9, 2: 5}
        begin, end = replayed.audited(group)[-2:]
        assert (begin.phase, end.outcome) == ("begin", "succeeded")
        assert begin.arguments["before"] == f"{replayed.topics.events} 1 5\n"

    def test_wrong_offsets_are_named(self, replayed, group, tmp_path: Path) -> None:
        replayed.send(30)
        file = tmp_path / "offsets"
        seek = ("offsets", "seek", "--group", group, "--file", file)
        file.write_text(f"{replayed.topics.events} 0 11\n")
        assert "it has 0 to 10" in replayed.penstock(*seek, "--yes", expect=1)["stderr"]
        file.write_text(f"{replayed.topics.events} 0\n")
        boxed = replayed.penstock(*seek, expect=2)["stderr"].replace("│", " ")
        assert "line 1:" in " ".join(boxed.split())

    def test_a_group_with_members_is_left_alone(self, replayed, group) -> None:
        replayed.send(30)
        with Consumer({"bootstrap.servers": replayed.bootstrap, "group.id": group}) as consumer:
            consumer.subscribe([replayed.topics.events])
            assert consumer.poll(TIMEOUT_S) is not None
            refused = replayed.penstock(
                "offsets", "seek", "--group", group, "--to", "end", "--yes", expect=4
            )
            assert "has 1 members" in refused["stderr"]


def test_an_absent_broker_is_exit_code_3_and_named(replayed) -> None:
    away = ReplayedPipeline.__new__(ReplayedPipeline)
    away.__dict__.update(replayed.__dict__, bootstrap="127.0.0.1:9")
    answer = away.penstock("dlq", "ls", replayed.name, expect=3)
    assert "127.0.0.1:9" in answer["stderr"]
    assert "--bootstrap-servers" in answer["stderr"]
