"""``penstock dlq``, ``replay`` and ``offsets`` on a real broker, as an engineer types them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.kafka import delete_records
from harness.replay import (
    ReplayedPipeline,
    as_replayed,
    attempts_of,
    content,
    copies,
    origin,
)
from harness.waiting import eventually
from penstock_schemas.errors import ModelRejected

pytestmark = pytest.mark.integration
SIGKILLED = -9


@pytest.fixture
def pipeline(kafka_bootstrap: str, registry_url: str, tmp_path: Path) -> Iterator[ReplayedPipeline]:
    pipeline = ReplayedPipeline(kafka_bootstrap, registry_url, tmp_path)
    yield pipeline
    pipeline.close()


class TestDeadLetters:
    def test_each_is_replayed_once_as_the_bytes_it_was(self, pipeline) -> None:
        events = pipeline.send(60)
        pipeline.fail(events[:20])
        pipeline.fail(events[20:30], ModelRejected("not finite"))
        replay = ("dlq", "replay", pipeline.name, "--class", "rule")

        dry = pipeline.penstock(*replay)
        assert dry["counts"] == {"replayed": 20}
        assert copies(pipeline, pipeline.topics.events, events) == []
        assert pipeline.audited(pipeline.name) == []

        assert pipeline.penstock(*replay, "--yes")["counts"] == {"replayed": 20}
        found = copies(pipeline, pipeline.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events[:20])
        assert pipeline.penstock(*replay, "--yes")["counts"] == {"already_done": 20}
        assert len(copies(pipeline, pipeline.topics.events, events)) == 20
        begin, progress, end = pipeline.audited(pipeline.name)[:3]
        assert (begin.phase, progress.phase, end.phase) == ("begin", "progress", "end")
        assert (end.actor, end.action, end.outcome) == ("ann", "dlq.replay", "succeeded")
        assert end.counts == {"replayed": 20}
        groups = pipeline.penstock("dlq", "ls", pipeline.name)["groups"]
        assert {g["class"]: (g["letters"], g["open"]) for g in groups} == {
            "rule": (20, 0),
            "model": (10, 10),
        }

    def test_fourth_attempt_is_parked(self, pipeline) -> None:
        failing = pipeline.send(3)
        for attempts in (1, 2, 3):
            pipeline.fail(failing)
            assert (
                pipeline.penstock("dlq", "replay", pipeline.name, "--yes")["counts"]["replayed"]
                == 3
            )
            failing = [
                m
                for m in pipeline.read(pipeline.topics.events)
                if ("dlq.attempt", str(attempts).encode()) in (m.headers() or [])
            ]
            assert len(failing) == 3
        pipeline.fail(failing)
        events = len(pipeline.read(pipeline.topics.events))
        counts = pipeline.penstock("dlq", "replay", pipeline.name, "--yes")["counts"]
        assert counts == {"already_done": 9, "parked": 3}
        assert len(pipeline.read(pipeline.topics.events)) == events
        parked = pipeline.read(pipeline.topics.parked(pipeline.topics.events))
        assert [content(m)[:4] for m in parked] == [content(m)[:4] for m in failing]
        assert {dict(m.headers() or [])["dlq.attempt"] for m in parked} == {b"4"}

    def test_parked_letters_are_tried_again_when_somebody_asks_and_never_by_themselves(
        self, pipeline
    ) -> None:
        failing = pipeline.send(2)
        pipeline.fail(failing)
        pipeline.penstock("dlq", "park", pipeline.name, "--yes")
        replay = ("dlq", "replay", pipeline.name)
        assert pipeline.penstock(*replay, "--yes")["counts"] == {"already_done": 2}
        shown = pipeline.penstock("dlq", "show", pipeline.name, "--parked")["letters"]
        assert {letter["id"].split("/")[0] for letter in shown} == {
            pipeline.topics.parked(pipeline.topics.events)
        }

        one = (*replay, "--parked", "--id", shown[0]["id"])
        assert pipeline.penstock(*one)["counts"] == {"replayed": 1}
        assert pipeline.penstock(*one, "--yes")["counts"] == {"replayed": 1}
        assert pipeline.penstock(*one, "--yes")["counts"] == {"already_done": 1}
        found = copies(pipeline, pipeline.topics.events, failing)
        assert [content(m) in [as_replayed(f, 1) for f in failing] for m in found] == [True]
        rest = pipeline.penstock(*replay, "--parked", "--yes")["counts"]
        assert rest == {"already_done": 1, "replayed": 1}

    def test_letter_of_a_later_hop_is_its_event_again_and_its_attempts_add_up(
        self, pipeline
    ) -> None:
        failing = pipeline.send(1)
        for attempts in (1, 2, 3, 4):
            (vector,) = pipeline.send(1, topic=pipeline.topics.features, first=attempts)
            pipeline.fail([vector], ModelRejected("not finite"), origin(failing[0]).decode())
            counts = pipeline.penstock("dlq", "replay", pipeline.name, "--yes")["counts"]
            if attempts == 4:
                assert counts == {"already_done": 3, "parked": 1}
                break
            assert counts["replayed"] == 1
            last = max(pipeline.read(pipeline.topics.events), key=lambda m: attempts_of(m))
            assert content(last)[1:4] == content(failing[0])[1:4]
            assert attempts_of(last) == attempts
            failing = [last]
        assert len(pipeline.read(pipeline.topics.parked(pipeline.topics.features))) == 1

    def test_origin_that_retention_has_passed_is_refused_and_can_be_parked(self, pipeline) -> None:
        events = pipeline.send(30)
        pipeline.fail(events)
        delete_records(pipeline.bootstrap, pipeline.topics.events, 0, before=5)
        answer = pipeline.penstock("dlq", "replay", pipeline.name, "--yes", expect=4)
        assert answer["counts"] == {"refused": 5, "replayed": 25}
        assert "retention has passed its origin" in answer["stderr"]
        parked = pipeline.penstock("dlq", "park", pipeline.name, "--yes")
        assert parked["counts"] == {"already_done": 25, "parked": 5}

    def test_show_tells_why_and_masks_the_payload(self, pipeline) -> None:
        events = pipeline.send(4)
        pipeline.fail(events)
        shown = pipeline.penstock("dlq", "show", pipeline.name, "--limit", 2)["letters"]
        assert len(shown) == 2
        assert shown[0]["cause"].startswith("RuleViolation: amount is over its limit")
        assert "value-" not in str(shown)
        (one,) = pipeline.penstock(
            "dlq", "show", pipeline.name, "--id", shown[0]["id"], "--payload"
        )["letters"]
        assert one["id"] == shown[0]["id"]
        original = next(m for m in events if origin(m).decode() == one["origin"])
        assert one["value"] == "0x" + (original.value() or b"").hex()

    @pytest.mark.parametrize(
        "point",
        [
            pytest.param("mid_copy:8", marks=pytest.mark.faults),
            pytest.param("before_commit:2", marks=pytest.mark.faults),
            "during_commit:2",
        ],
    )
    def test_kill_and_the_same_command_send_each_once(self, pipeline, point: str) -> None:
        events = pipeline.send(30)
        pipeline.fail(events)
        command = ("dlq", "replay", pipeline.name, "--rate", "12", "--yes")
        pipeline.penstock(*command, expect=SIGKILLED, fail_point=point)
        pipeline.penstock("dlq", "replay", pipeline.name, "--yes")
        found = copies(pipeline, pipeline.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events)

    @pytest.mark.faults
    def test_of_two_engineers_the_second_goes_on_and_nothing_is_sent_twice(self, pipeline) -> None:
        events = pipeline.send(60)
        pipeline.fail(events)
        slow = pipeline.start("dlq", "replay", pipeline.name, "--rate", "5", "--yes")
        eventually(
            lambda: len(pipeline.read(pipeline.topics.events)) > 65, 60, "the first is at it"
        )
        second = pipeline.penstock("dlq", "replay", pipeline.name, "--yes")["counts"]
        assert 0 < second["replayed"] < 60
        assert sum(second.values()) == 60
        _, err = slow.communicate(timeout=30)
        assert slow.returncode == 1
        assert "another run has taken over" in err, err
        found = copies(pipeline, pipeline.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events)
