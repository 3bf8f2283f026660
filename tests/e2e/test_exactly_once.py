"""Every event has exactly one outcome, with and without kill -9 in the middle."""

from __future__ import annotations

import time
from functools import partial
from typing import Literal

import pytest
from harness.clients import ProducerApp, Published, card_rows
from harness.faults import kill, kill_inside
from harness.judges import Figures, LedgerRun, LiveReader, counters, scrape
from harness.stack import Stack
from harness.waiting import Background, eventually
from penstock_ledger import Report
from penstock_ledger.records import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

BAD_SHARE = 0.01
PUBLISH_S = 50.0
KILL_ROUND_EVENTS = 20_000
KILL_ROUNDS = 3
METRICS_LATE_S = 3.0
"""Replicas report their counts once a second, and the service reads them once a second."""
Killed = Literal["ingest", "inference", "triton"]


def expect_all(report: Report, published: Published) -> None:
    """Assert one outcome per event, each in its class."""
    assert report.ok, str(report)
    assert report.drained, str(report)
    assert report.events == published.events
    assert report.tombstones == published.tombstones
    assert report.predictions == published.good
    assert sum(report.dead_letters.values()) == len(published.bad)
    assert {"decode", "schema", "rule", "oversize"} <= set(report.dead_letters)


def scrape_services(stack: Stack) -> dict[str, Figures]:
    return {
        name: scrape(f"{stack.component(name)['endpoint']}/metrics")
        for name in ("ingest", "inference")
    }


def test_every_event_has_one_outcome(
    stack: Stack, fraud: LedgerRun, cards: ProducerApp, event_count: int, seed: int
) -> None:
    time.sleep(METRICS_LATE_S)
    before = scrape_services(stack)
    published = cards.publish(card_rows(seed, event_count, BAD_SHARE), Published())
    fraud.drain(180)
    time.sleep(METRICS_LATE_S)
    after = scrape_services(stack)
    counted = [
        *counters("ingest", fraud.topics.events, before["ingest"], after["ingest"]),
        *counters("inference", fraud.topics.features, before["inference"], after["inference"]),
    ]
    report = fraud.report(published, counted)
    print(f"{published.forms}\n{report}")  # noqa: T201 - shown with a failed test
    expect_all(report, published)


class KillRun:
    """Publishes in the background and kills components when they have come to given points."""

    def __init__(
        self, stack: Stack, fraud: LedgerRun, cards: ProducerApp, background: Background
    ) -> None:
        self.stack, self.fraud, self.cards, self.background = stack, fraud, cards, background
        self.published = Published()
        self.rate = 2_000.0
        self.start = time.monotonic()

    def note(self, what: str) -> None:
        """Print what happened and when; shown with a failed test."""
        print(f"{time.monotonic() - self.start:6.1f} s  {what}")  # noqa: T201

    def publish(self, seed: int, count: int) -> None:
        """Start to publish."""
        rows = card_rows(seed, count, BAD_SHARE)
        self.publishing = self.background(
            partial(self.cards.publish, rows, self.published, self.rate)
        )

    def kill_at(self, component: Killed, offset: int) -> None:
        """Kill a component once it, or for Triton its client, has committed so far."""
        service: Service = "ingest" if component == "ingest" else "inference"
        eventually(
            lambda: self.fraud.done(service) >= offset,
            120,
            f"{service} at {offset}",
            unless=self.publishing.check,
        )
        pids = self.pids(component)
        if component == "triton":
            kill(pids)
            self.note(f"killed {component} at {offset}")
            return
        inside = kill_inside(pids, partial(self.fraud.has_open_transaction, service), 5.0)
        self.note(f"killed {component} at {offset}, in a transaction of {service}: {inside}")

    def pids(self, component: Killed) -> list[int]:
        """Return the processes to kill; of inference only fraud's routers."""
        if component == "inference":
            return self.stack.replicas("fraud")
        return self.stack.pids(component)

    def missed(self) -> list[Service]:
        """Return the services whose kills have left no aborted record."""
        services: list[Service] = ["inference", "ingest"]
        return [service for service in services if not self.fraud.aborted(service)]


def test_kills_lose_and_double_nothing(
    stack: Stack,
    fraud: LedgerRun,
    cards: ProducerApp,
    event_count: int,
    seed: int,
    in_background: Background,
) -> None:
    """kill -9 of a router replica, of ingest and of Triton under load.

    A kill bites when it leaves an aborted transaction behind. One that falls between two
    transactions is repeated at another moment, with more events.
    """
    run = KillRun(stack, fraud, cards, in_background)
    run.rate = event_count / PUBLISH_S  # a killed service is away for about 15 s
    with LiveReader(fraud) as live:
        run.publish(seed, event_count)
        run.kill_at("inference", int(event_count * 0.15))
        run.kill_at("ingest", int(event_count * 0.4))
        run.kill_at("triton", int(event_count * 0.65))
        run.publishing.join()
        for turn in range(1, KILL_ROUNDS + 1):
            missed = run.missed()
            if not missed:
                break
            targets = {service: fraud.done(service) + 3_000 for service in missed}
            run.publish(seed + turn, KILL_ROUND_EVENTS)
            for service, offset in targets.items():
                run.kill_at(service, offset)
            run.publishing.join()
        eventually(lambda: not stack.unwell(), 90, "every component is back")
        fraud.drain(180)
        run.note("drained")
    report = fraud.report(run.published, live=live.seen)
    run.note("checked")
    print(report)  # noqa: T201 - shown with a failed test
    expect_all(report, run.published)
    assert report.aborted.get("predictions", 0) > 0, "no kill of a replica bit"
    assert report.aborted.get("features", 0) > 0, "no kill of ingest bit"
