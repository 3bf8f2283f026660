"""The part that all copying shares: the pace, the transactions, and what they note."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from penstock_schemas.errors import FencedError, PenstockError
from penstock_schemas.records import AuditEvent

from penstock_replay.audit_log import AuditLog, Operation
from penstock_replay.copier import Copier, Target
from penstock_replay.headers import Record
from penstock_replay.pacing import Pacer
from penstock_replay.places import OffsetSet
from penstock_replay.retrying import until_done

COMMIT_S: Final = 1.0
"""Age at which a transaction of copies is committed: the granularity of a resumed run."""
COMMIT_ROWS: Final = 10_000
_WORTH_WAITING_S: Final = 0.005

Progress = Callable[[Mapping[str, int]], None]


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
        self._copier.commit(self._operation.event("begin", ranges=ranges))
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
        self._note(mark, offset, name)
        if self._copier.rows >= COMMIT_ROWS or self._copier.age_s >= COMMIT_S:
            self._commit()

    def _note(self, mark: str, offset: int, name: str) -> None:
        offsets = self._ranges.get(mark)
        if offsets is None:
            offsets = self._ranges[mark] = OffsetSet()
        offsets.add(offset)
        self._counts[name] += 1

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
        self._copier.commit(*(notes if ranges else []), *more)
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
