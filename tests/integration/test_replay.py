"""``penstock dlq``, ``replay`` and ``offsets`` on a real broker, as an engineer types them."""

from __future__ import annotations

from collections import Counter

import pytest
from harness.kafka import delete_records
from harness.replay import (
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


class TestDeadLetters:
    def test_each_is_replayed_once_as_the_bytes_it_was(self, replayed) -> None:
        events = replayed.send(60)
        replayed.fail(events[:20])
        replayed.fail(events[20:30], ModelRejected("not finite"))
        replay = ("dlq", "replay", replayed.name, "--class", "rule")

        dry = replayed.penstock(*replay)
        assert dry["counts"] == {"replayed": 20}
        assert copies(replayed, replayed.topics.events, events) == []
        assert replayed.audited(replayed.name) == []

        assert replayed.penstock(*replay, "--yes")["counts"] == {"replayed": 20}
        found = copies(replayed, replayed.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events[:20])
        assert replayed.penstock(*replay, "--yes")["counts"] == {"already_done": 20}
        assert len(copies(replayed, replayed.topics.events, events)) == 20
        begin, progress, end = replayed.audited(replayed.name)[:3]
        assert (begin.phase, progress.phase, end.phase) == ("begin", "progress", "end")
        assert (end.actor, end.action, end.outcome) == ("ann", "dlq.replay", "succeeded")
        assert end.counts == {"replayed": 20}
        groups = replayed.penstock("dlq", "ls", replayed.name)["groups"]
        assert {g["class"]: (g["letters"], g["open"]) for g in groups} == {
            "rule": (20, 0),
            "model": (10, 10),
        }

    def test_fourth_attempt_is_parked(self, replayed) -> None:
        failing = replayed.send(3)
        for attempts in (1, 2, 3):
            replayed.fail(failing)
            assert (
                replayed.penstock("dlq", "replay", replayed.name, "--yes")["counts"]["replayed"]
                == 3
            )
            failing = [
                m
                for m in replayed.read(replayed.topics.events)
                if ("dlq.attempt", str(attempts).encode()) in (m.headers() or [])
            ]
            assert len(failing) == 3
        replayed.fail(failing)
        events = len(replayed.read(replayed.topics.events))
        counts = replayed.penstock("dlq", "replay", replayed.name, "--yes")["counts"]
        assert counts == {"already_done": 9, "parked": 3}
        assert len(replayed.read(replayed.topics.events)) == events
        parked = replayed.read(replayed.topics.parked(replayed.topics.events))
        assert [content(m)[:4] for m in parked] == [content(m)[:4] for m in failing]
        assert {dict(m.headers() or [])["dlq.attempt"] for m in parked} == {b"4"}

    def test_parked_letters_are_tried_again_when_somebody_asks_and_never_by_themselves(
        self, replayed
    ) -> None:
        failing = replayed.send(2)
        replayed.fail(failing)
        replayed.penstock("dlq", "park", replayed.name, "--yes")
        replay = ("dlq", "replay", replayed.name)
        assert replayed.penstock(*replay, "--yes")["counts"] == {"already_done": 2}
        shown = replayed.penstock("dlq", "show", replayed.name, "--parked")["letters"]
        assert {letter["id"].split("/")[0] for letter in shown} == {
            replayed.topics.parked(replayed.topics.events)
        }

        one = (*replay, "--parked", "--id", shown[0]["id"])
        assert replayed.penstock(*one)["counts"] == {"replayed": 1}
        assert replayed.penstock(*one, "--yes")["counts"] == {"replayed": 1}
        assert replayed.penstock(*one, "--yes")["counts"] == {"already_done": 1}
        found = copies(replayed, replayed.topics.events, failing)
        assert [content(m) in [as_replayed(f, 1) for f in failing] for m in found] == [True]
        rest = replayed.penstock(*replay, "--parked", "--yes")["counts"]
        assert rest == {"already_done": 1, "replayed": 1}

    def test_letter_of_a_later_hop_is_its_event_again_and_its_attempts_add_up(
        self, replayed
    ) -> None:
        failing = replayed.send(1)
        for attempts in (1, 2, 3, 4):
            (vector,) = replayed.send(1, topic=replayed.topics.features, first=attempts)
            replayed.fail([vector], ModelRejected("not finite"), origin(failing[0]).decode())
            counts = replayed.penstock("dlq", "replay", replayed.name, "--yes")["counts"]
            if attempts == 4:
                assert counts == {"already_done": 3, "parked": 1}
                break
            assert counts["replayed"] == 1
            last = max(replayed.read(replayed.topics.events), key=lambda m: attempts_of(m))
            assert content(last)[1:4] == content(failing[0])[1:4]
            assert attempts_of(last) == attempts
            failing = [last]
        assert len(replayed.read(replayed.topics.parked(replayed.topics.features))) == 1

    def test_origin_that_retention_has_passed_is_refused_and_can_be_parked(self, replayed) -> None:
        events = replayed.send(30)
        replayed.fail(events)
        delete_records(replayed.bootstrap, replayed.topics.events, 0, before=5)
        answer = replayed.penstock("dlq", "replay", replayed.name, "--yes", expect=4)
        assert answer["counts"] == {"refused": 5, "replayed": 25}
        assert "retention has passed its origin" in answer["stderr"]
        parked = replayed.penstock("dlq", "park", replayed.name, "--yes")
        assert parked["counts"] == {"already_done": 25, "parked": 5}

    def test_show_tells_why_and_masks_the_payload(self, replayed) -> None:
        events = replayed.send(4)
        replayed.fail(events)
        shown = replayed.penstock("dlq", "show", replayed.name, "--limit", 2)["letters"]
        assert len(shown) == 2
        assert shown[0]["cause"].startswith("RuleViolation: amount is over its limit")
        assert "value-" not in str(shown)
        (one,) = replayed.penstock(
            "dlq", "show", replayed.name, "--id", shown[0]["id"], "--payload"
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
    def test_kill_and_the_same_command_send_each_once(self, replayed, point: str) -> None:
        events = replayed.send(30)
        replayed.fail(events)
        command = ("dlq", "replay", replayed.name, "--rate", "12", "--yes")
        replayed.penstock(*command, expect=SIGKILLED, fail_point=point)
        replayed.penstock("dlq", "replay", replayed.name, "--yes")
        found = copies(replayed, replayed.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events)

    @pytest.mark.faults
    def test_of_two_engineers_the_second_goes_on_and_nothing_is_sent_twice(self, replayed) -> None:
        events = replayed.send(60)
        replayed.fail(events)
        slow = replayed.start("dlq", "replay", replayed.name, "--rate", "5", "--yes")
        eventually(
            lambda: len(replayed.read(replayed.topics.events)) > 65, 60, "the first is at it"
        )
        second = replayed.penstock("dlq", "replay", replayed.name, "--yes")["counts"]
        assert 0 < second["replayed"] < 60
        assert sum(second.values()) == 60
        _, err = slow.communicate(timeout=30)
        assert slow.returncode == 1
        assert "another run has taken over" in err, err
        found = copies(replayed, replayed.topics.events, events)
        assert Counter(map(content, found)) == Counter(as_replayed(m, 1) for m in events)
