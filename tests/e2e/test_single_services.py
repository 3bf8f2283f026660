"""One service stopped by hand while the rest goes on, and moving the group that it works in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.clients import ProducerApp, Published, card_rows
from harness.judges import LedgerRun
from harness.stack import UP_TIMEOUT_S, CommandFailed, Stack, penstock
from harness.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

EVENTS = 500
GROUP = "penstock-inference-fraud"


@pytest.fixture
def verb(stack: Stack) -> Iterator[list[str]]:
    """Return the options that name the stack; afterwards nothing is held any more."""
    options = ["--data-dir", str(stack.data_dir)]
    yield options
    for name in [c["name"] for c in stack.status()["components"] if c["state"] == "stopped"]:
        if name != "gateway":  # lives in inference
            penstock("start", name, *options, timeout_s=UP_TIMEOUT_S)


def answered(fraud: LedgerRun, predictions: int) -> None:
    """Wait until so many predictions lie in the topic and nothing is left to do."""
    # First the count: a hop's offsets may be seen before the records of the same transaction.
    eventually(lambda: fraud.count("predictions") >= predictions, 60, f"{predictions} answers")
    fraud.drain(60)
    assert fraud.count("predictions") == predictions


@pytest.mark.faults
def test_a_group_is_moved_back_while_its_service_is_away(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int, verb: list[str], tmp_path: Path
) -> None:
    """What lies behind the new position is answered again, and only that."""
    topic = fraud.topics.name("features")
    cards.publish(card_rows(seed, EVENTS), Published())
    answered(fraud, EVENTS)
    before = fraud.client.committed(GROUP, topic)
    cards.publish(card_rows(seed + 1, EVENTS), Published())
    answered(fraud, 2 * EVENTS)
    places = tmp_path / "before.txt"
    places.write_text("".join(f"{topic} {p} {o}\n" for p, o in before.items()))
    seek = ("offsets", "seek", "--group", GROUP, "--file", str(places), *verb)

    with pytest.raises(CommandFailed, match=r"(?s)exits 4.*penstock stop inference"):
        penstock(*seek, "--accept-duplicates", "--yes")
    assert stack.component("inference")["state"] == "ready"
    penstock(*seek, "--accept-duplicates", "--stop-service", "--yes", timeout_s=UP_TIMEOUT_S)
    answered(fraud, 3 * EVENTS)
    assert not stack.unwell()


def test_a_stopped_service_stays_stopped_while_others_go_on(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, seed: int, verb: list[str]
) -> None:
    """Also after the supervisor was killed and another one has taken over."""
    penstock("stop", "ingest", *verb)
    assert stack.unwell() == ["ingest is stopped"]
    assert stack.pids("ingest") == []
    cards.publish(card_rows(seed, EVENTS), Published())
    eventually(lambda: fraud.backlog("ingest") == EVENTS, 20, "nobody takes the events")

    stack.supervisor().kill()
    penstock("up", "--detach", *verb, timeout_s=UP_TIMEOUT_S)
    assert stack.unwell() == ["ingest is stopped"]
    assert fraud.backlog("ingest") == EVENTS
    penstock("start", "ingest", *verb, timeout_s=UP_TIMEOUT_S)
    answered(fraud, EVENTS)
    assert not stack.unwell()
