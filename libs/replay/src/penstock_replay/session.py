"""The part that a replay and a redrive share: copies, paced, in transactions, noted in the audit.

A transaction holds copies and the audit record of them: both become visible, or neither does. So
after a kill the audit says which records are done, and a run goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from penstock_schemas.errors import BrokerUnavailable, FatalError, FencedError, PenstockError
from penstock_schemas.records import AuditEvent
from penstock_service.fail_points import FailPoints
from penstock_streaming.audit import AuditLog, Operation
from penstock_streaming.dead_letters import Header
from penstock_streaming.errors import AbortRequired, OutcomeUnknown
from penstock_streaming.fenced_writer import FencedWriter, LogRecord
from penstock_streaming.settings import KafkaSettings

from penstock_replay.headers import Record
from penstock_replay.offsets import OffsetSet

COMMIT_S: Final = 1.0
"""Age at which a transaction of copies is committed: the granularity of a resumed run."""
COMMIT_ROWS: Final = 10_000
_WORTH_WAITING_S: Final = 0.005
RETRIED: Final = (AbortRequired, OutcomeUnknown, BrokerUnavailable)
"""Failures after which a run goes on from its last commit, with a new producer."""
ATTEMPTS: Final = 5
"""Failures in a row, without a commit between, after which a run gives up."""
PAUSE_S: Final = 4.0
"""Wait before going on: who has taken the id over needs a moment to say so in the audit."""
_CATCH_UP_S: Final = 1.0
"""Most time that may be made up for: after an outage the copies must not come all at once."""

Progress = Callable[[Mapping[str, int]], None]


class Pacer:
    """Keeps a rate: says how long the next record has to wait.

    Record n is due n / rate seconds after the first, so that time spent on commits is made up for.

    Parameters
    ----------
    per_s
        Records per second; None lets every record go at once.
    clock
        Monotonic seconds; a test gives its own.

    Examples
    --------
    >>> now = 0.0
    >>> pacer = Pacer(10.0, clock=lambda: now)
    >>> pacer.count(), pacer.count(), round(pacer.wait_s(), 3)
    (None, None, 0.2)
    """

    def __init__(self, per_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 0.0 if per_s is None else 1.0 / per_s
        self._clock = clock
        self._due: float | None = None

    def wait_s(self) -> float:
        """Return seconds until the next record is due; 0.0 if it is."""
        if self._due is None:
            return 0.0
        return max(0.0, self._due - self._clock())

    def count(self) -> None:
        """Note that a record has gone."""
        if self._interval_s:
            now = self._clock()
            due = now if self._due is None else max(self._due, now - _CATCH_UP_S)
            self._due = due + self._interval_s


@dataclass(frozen=True, slots=True)
class Target:
    """Where a copy goes, and the headers it gets."""

    topic: str
    partition: int
    headers: list[Header]


class Copier(FencedWriter):
    """Appends copies of records, exactly once for each transactional id.

    Parameters
    ----------
    audit
        Takes the notes.
    """

    def __init__(self, kafka: KafkaSettings, transactional_id: str, audit: AuditLog) -> None:
        super().__init__(kafka, transactional_id)
        self._audit = audit
        self._points = FailPoints()
        self.rows = 0

    def send(self, record: Record, target: Target) -> None:
        """Queue a copy: key, value and timestamp as they are."""
        at_ms = max(0, record.timestamp()[1])
        copy = LogRecord(
            target.topic, record.key(), record.value(), target.partition, at_ms, target.headers
        )
        self.produce(copy)
        self.rows += 1
        self._points.reach("mid_copy")

    def commit_with(self, *notes: AuditEvent) -> None:
        """Make the copies since the last commit, and these notes, visible at once.

        Raises as `FencedWriter.commit`.
        """
        for note in notes:
            self.produce(self._audit.record_of(note))
        self._points.reach("before_commit")
        self._points.during("during_commit")
        self.commit()
        self.rows = 0
        self._points.reach("after_commit")

    def close(self) -> None:
        """Abort what is open, and drop the producer."""
        self.rows = 0
        super().close()


class Session:
    """One run of an operation.

    Parameters
    ----------
    copier
        Not open yet.
    operation
        What the audit is told.
    pacer
        The rate of copies.
    on_progress
        Called with the counts so far after every commit.
    """

    def __init__(
        self, copier: Copier, operation: Operation, pacer: Pacer, on_progress: Progress
    ) -> None:
        self._copier = copier
        self._operation = operation
        self._pacer = pacer
        self._on_progress = on_progress
        self._ranges: dict[str, OffsetSet] = {}
        self._counts: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.commits = 0

    def open(self, totals: Mapping[str, int]) -> None:
        """Take the transactional id, forget what was not committed, and count on from ``totals``.

        Whoever calls it again must read from the audit what is done.
        """
        self._copier.open()
        self._ranges.clear()
        self._counts.clear()
        self.totals = Counter(totals)

    def begin(self, ranges: Mapping[str, str]) -> None:
        """Note the begin; ``ranges`` is what is to be done."""
        self._copier.commit_with(self._operation.event("begin", ranges=ranges))
        self.commits += 1

    def copy(self, record: Record, target: Target) -> None:
        """Copy a record when its turn comes."""
        wait_s = self._pacer.wait_s()
        if wait_s > _WORTH_WAITING_S:
            if self._copier.rows and self._copier.age_s + wait_s > COMMIT_S:
                self._commit()
            threading.Event().wait(self._pacer.wait_s())
        self._copier.send(record, target)
        self._pacer.count()

    def note(self, mark: str, offset: int, name: str) -> None:
        """Note that a record is done with, as what, and commit if it is time."""
        self._ranges.setdefault(mark, OffsetSet()).add(offset)
        self._counts[name] += 1
        if self._copier.rows >= COMMIT_ROWS or self._copier.age_s >= COMMIT_S:
            self._commit()

    def finish(self, counts: Mapping[str, int] | None = None) -> None:
        """Commit the rest, and the end with its counts: the totals unless they are given."""
        totals = self.totals + self._counts if counts is None else counts
        self._commit(self._operation.event("end", outcome="succeeded", counts=totals))

    def close(self) -> None:
        """Abort what is open."""
        self._copier.close()

    def _commit(self, *more: AuditEvent) -> None:
        """Make the copies visible, together with the note of them."""
        ranges = {mark: str(offsets) for mark, offsets in self._ranges.items()}
        notes = [self._operation.event("progress", ranges=ranges, counts=self._counts)]
        self._copier.commit_with(*(notes if ranges else []), *more)
        self.commits += 1
        self.totals.update(self._counts)
        self._ranges.clear()
        self._counts.clear()
        self._on_progress(self.totals)


def run_audited(
    session: Session, attempt: Callable[[], None], audit: AuditLog, operation: Operation
) -> None:
    """Run ``attempt`` until it succeeds; a failure for good is noted as the operation's end.

    Such an end does not close the operation: the same command goes on where it stopped.
    """
    try:
        until_done(attempt, lambda: session.commits)
    except FencedError:
        raise  # another run has taken over, and the operation goes on there
    except BaseException as exc:
        session.close()
        reason = f"{type(exc).__name__}: {exc}".rstrip(": ")
        # Where the audit cannot be written either, its begin without an end tells.
        with suppress(PenstockError):
            audit.write(operation.event("end", outcome="failed", reason=reason))
        raise
    finally:
        session.close()


def until_done(
    attempt: Callable[[], None], commits: Callable[[], int], pause_s: float = PAUSE_S
) -> None:
    """Repeat ``attempt``, which starts from what the audit says, until it succeeds.

    Parameters
    ----------
    commits
        How many transactions have been committed: one more forgives earlier failures.

    Raises
    ------
    BrokerUnavailable
        If it fails too often in a row.
    """
    failures, before = 0, commits()
    while True:
        try:
            return attempt()
        except FatalError:
            raise
        except RETRIED as exc:
            failures = 1 if commits() > before else failures + 1
            before = commits()
            if failures >= ATTEMPTS:
                raise BrokerUnavailable(
                    f"{exc}; the same command goes on where this one stopped"
                ) from exc
            threading.Event().wait(pause_s)
