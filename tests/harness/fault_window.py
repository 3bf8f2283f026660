"""One run of a fault test: what was published, which faults happened, and the verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from harness.background import Background, BackgroundCall
from harness.bare_router import BareRouter, figures
from harness.fault_world import START_S, FaultWorld, now_ms
from harness.figures import counters
from harness.live_reader import LiveReader
from harness.producer_app import Published
from harness.waiting import eventually
from penstock_ledger import Fault, Report

SESSION_S: Final = 6.0
TRANSACTION_S: Final = 10.0
SWEEP_S: Final = 1.0
"""Between two looks of a broker for timed-out transactions."""
PROGRESS_S: Final = TRANSACTION_S + SWEEP_S + SESSION_S + 30.0
"""Time from the end of a fault to progress of every partition, seconds."""
DRAIN_S: Final = 120.0
VERDICTS: Final[list[str]] = []
"""What was judged in this run of pytest, with its seeds: printed at the end."""
FULL: Final = os.environ.get("FULL") == "1"


class FaultWindow:
    """Opens a window of the log with a concurrent read_committed reader; judges it at the end.

    Parameters
    ----------
    name
        Of the fault, for the line that is printed.
    seed
        Of the events and the faults.
    """

    def __init__(self, world: FaultWorld, name: str, seed: int) -> None:
        self.world, self.name, self.seed = world, name, seed
        self.run = world.window()
        self.published = Published()
        self.faults: list[Fault] = []
        self._live = LiveReader(self.run)
        self._began = time.monotonic()
        self._turn = 0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.note(f"seed {self.seed}, after faults {self.faults}: {kind}")
            for router in self.world.routers:
                router.show_stacks()
            self._live.__exit__(kind, error, trace)

    @property
    def age_s(self) -> float:
        """Seconds since the window was opened."""
        return time.monotonic() - self._began

    def note(self, what: str) -> None:
        """Print what happened and when; shown with a failed test, or with -rP."""
        print(f"{self.name} {self.age_s:6.1f} s  {what}", flush=True)  # noqa: T201

    def publish(self, count: int, rate: float | None = None) -> None:
        """Publish events and wait for their delivery."""
        self._turn += 1
        self.world.publish(count, self.seed + self._turn, self.published, rate)

    def publishing(self, background: Background, chaos_s: float, rate: float) -> BackgroundCall:
        """Publish in the background while faults go on for some time, and a little longer."""
        return background(partial(self.publish, int((chaos_s + 5.0) * rate), rate))

    def ended(self, fault: str) -> None:
        """Note that a fault is over: from now on there must be progress in time."""
        self.faults.append(Fault(fault, now_ms(), PROGRESS_S))

    def judge(self, *, counted: bool = False, skip: tuple[str, ...] = ()) -> Report:
        """Wait until all is worked off, read the window, and assert that every event is right.

        Parameters
        ----------
        counted
            Whether the routers' counters must equal the log. They cannot where one was killed
            between a commit and its count, or was not told how a commit ended.
        skip
            Invariants that the fault breaks by design.
        """
        self.run.drain(DRAIN_S)
        drained_s = self.age_s
        self._live.__exit__(None, None, None)
        world, topic = self.world, self.world.topics.features
        counts = counters("inference", topic, {}, figures(world.run_dir)) if counted else []
        report = self.run.report(
            self.published, counts, live=self._live.seen, skip=skip, faults=self.faults
        )
        violations = sum(finding.count for finding in report.findings)
        verdict = (
            f"seed {self.seed}: {report.events} events, {len(self.faults)} faults, "
            f"{violations} violations, {len(report.held)} invariants hold, "
            f"aborted {report.aborted}, drained at {drained_s:.1f} s"
        )
        self.note(verdict)
        VERDICTS.append(f"{self.name}, {verdict}")
        assert report.ok, str(report)
        assert report.drained, str(report)
        assert report.events == self.published.events
        assert report.predictions == self.published.good
        assert sum(report.dead_letters.values()) == len(self.published.bad)
        return report


def await_ready(routers: Sequence[BareRouter]) -> None:
    """Wait until routers take records."""
    for router in routers:
        eventually(lambda r=router: r.is_ready, START_S, "the router is ready")  # type: ignore[misc]
