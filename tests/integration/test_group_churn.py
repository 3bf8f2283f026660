"""Members come, go and are killed without a rest: exactly once under either group protocol."""

from __future__ import annotations

import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness.copy_worker import CAN_STOP
from harness.loop import WorkerGroup
from harness.stack import Cluster
from harness.waiting import Background, eventually, holds_for
from penstock_streaming.timing import Deadline

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(420)]

CHURN_S = 40.0
MEMBERS = 3
COMMIT_S = 0.5
"""Long enough that a kill finds a transaction open."""
SESSIONS = """
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=1000
group.consumer.heartbeat.interval.ms=1500
"""
"""The consumer protocol's time-outs are the broker's: as short as those of the classic one."""
TOLD = ("aborted:", "new producer:", "not committed at the end", " lost (", " revoked (")


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a broker of our own."""
    folder = tmp_path_factory.mktemp("churn") / "kafka"
    with Cluster(folder, properties=SESSIONS) as cluster:
        yield cluster.bootstrap


@dataclass
class Churn:
    """Workers of one group, and what is done to them."""

    group: WorkerGroup
    protocols: tuple[str, ...]
    folder: Path
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)
    alive: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def join(self) -> None:
        protocol = self.protocols[len(self.group.workers) % len(self.protocols)]
        log = self.folder / f"{len(self.group.workers)}.log"
        worker = self.group.start(log=log, group_protocol=protocol, commit_interval_s=COMMIT_S)
        self.alive.append(worker)

    def leave(self) -> None:
        worker = self.alive.pop(0)
        log = self.folder / f"{self.group.workers.index(worker)}.log"
        eventually(lambda: CAN_STOP in log.read_text(), 30, "the worker has started")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0

    def kill(self) -> None:
        worker = self.alive.pop(0)
        worker.kill()
        worker.wait(10)

    def act(self) -> None:
        """Do one thing to one member; one at least is left."""
        possible = ["join"] if len(self.alive) < MEMBERS else []
        possible += ["leave", "kill"] if len(self.alive) > 1 else []
        what = self.rng.choice(possible)
        self.done[what] += 1
        getattr(self, what)()

    def told(self) -> dict[str, int]:
        text = "".join(log.read_text() for log in self.folder.glob("*.log"))
        return {what.strip(" (:"): text.count(what) for what in TOLD}


@pytest.mark.parametrize("protocols", [("classic",), ("consumer",)], ids="-".join)
def test_churn_neither_loses_nor_doubles(
    bootstrap: str,
    tmp_path: Path,
    in_background: Background,
    protocols: tuple[str, ...],
    seed: int,
) -> None:
    group = WorkerGroup(bootstrap, partitions=6)
    churn = Churn(group, protocols, tmp_path, random.Random(seed))
    try:
        churn.join()
        eventually(lambda: send(group) and committed(group) > 0, 60, "the first works")
        sender = in_background(lambda: holds_for(lambda: send(group), CHURN_S, "sending"))
        churning = Deadline(CHURN_S)
        while not churning.expired:
            sender.check()
            holds_for(lambda: True, churn.rng.uniform(1.0, 3.0), "some work")
            churn.act()
        sender.join()
        while len(churn.alive) > 1:
            churn.leave()
        group.await_end(120)
        churn.leave()
        group.assert_exactly_once()
        aborted = group.aborted()
        print(  # noqa: T201 - shown with -rP
            f"{protocols}: {len(group.sent)} sent, {dict(churn.done)}, {aborted} outputs aborted, "
            f"said: {churn.told()}"
        )
        assert aborted > 0, "the churn bites"
    finally:
        group.close()


def send(group: WorkerGroup) -> bool:
    group.send(100, first=len(group.sent))
    return True


def committed(group: WorkerGroup) -> int:
    return sum(max(0, end) for end in group.committed().values())
