"""Runs the queries on a store and says what they found."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from penstock_ledger.queries import INVARIANTS
from penstock_ledger.store import Store

OFFENDERS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold.

    Parameters
    ----------
    offenders
        The first of them as (partition, offset, what is wrong).
    count
        How many there are in all.
    """

    invariant: str
    count: int
    offenders: tuple[tuple[int, int, str], ...]

    def __str__(self) -> str:
        lines = [f"{self.invariant}: {self.count} offenders"]
        lines += [f"  {partition}/{offset}: {what}" for partition, offset, what in self.offenders]
        if self.count > len(self.offenders):
            lines.append(f"  … and {self.count - len(self.offenders)} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, with the figures that show how much was looked at.

    Parameters
    ----------
    events, tombstones, features, predictions
        Records of the window in the read_committed view.
    dead_letters
        Number per class.
    aborted
        Records per role that only the read_uncommitted view shows: traces of aborted
        transactions.
    pending
        Events of the window that have no terminal record yet and need none yet.
    """

    findings: tuple[Finding, ...]
    events: int
    tombstones: int
    features: int
    predictions: int
    dead_letters: dict[str, int]
    aborted: dict[str, int]
    pending: int

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.findings

    @property
    def drained(self) -> bool:
        """Whether every event of the window has reached its end."""
        return self.pending == 0

    def __str__(self) -> str:
        dead = ", ".join(f"{name} {n}" for name, n in sorted(self.dead_letters.items()))
        aborted = ", ".join(f"{role} {n}" for role, n in sorted(self.aborted.items()))
        lines = [
            f"events {self.events} (tombstones {self.tombstones}), features {self.features}, "
            f"predictions {self.predictions}, pending {self.pending}",
            f"dead letters: {dead or 'none'}; aborted records: {aborted or 'none'}",
            *(str(finding) for finding in self.findings),
        ]
        if self.ok:
            lines.append("every invariant holds")
        return "\n".join(lines)


def check(store: Store, *, skip: Collection[str] = ()) -> Report:
    """Ask every invariant of ``queries`` and return what was found.

    Parameters
    ----------
    skip
        Names of invariants that the run is known to break by design, such as fencing where a
        partition went away and came back on purpose.
    """
    store.index()
    findings = []
    for name, query in INVARIANTS.items():
        if name in skip:
            continue
        rows = store.database.execute(query).fetchall()
        if rows:
            findings.append(Finding(name, len(rows), tuple(sorted(rows)[:OFFENDERS_SHOWN])))
    return _report(store, tuple(findings))


def _report(store: Store, findings: tuple[Finding, ...]) -> Report:
    def number(query: str) -> int:
        return int(store.database.execute(query).fetchone()[0])

    def numbers(query: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in store.database.execute(query)}

    return Report(
        findings,
        events=number("SELECT count(*) FROM event"),
        tombstones=number("SELECT count(*) FROM event WHERE value IS NULL"),
        features=number("SELECT count(*) FROM feature"),
        predictions=number("SELECT count(*) FROM output WHERE role = 'predictions'"),
        dead_letters=numbers(
            "SELECT coalesce(h.value, '?'), count(*) FROM dead d"
            " JOIN dead_header h ON h.role = d.role AND h.partition = d.partition"
            " AND h.offset = d.offset AND h.name = 'dlq.class'"
            " GROUP BY 1"
        ),
        aborted=numbers(
            "SELECT u.role, count(*) FROM sighting u JOIN span s ON s.role = u.role"
            " AND s.partition = u.partition WHERE u.view = 'uncommitted'"
            " AND u.offset >= s.start AND u.offset < s.stable AND NOT EXISTS ("
            "  SELECT 1 FROM sighting c WHERE c.view = 'committed' AND c.role = u.role"
            "  AND c.partition = u.partition AND c.offset = u.offset) GROUP BY 1"
        ),
        pending=number(
            "SELECT count(*) FROM event e WHERE e.value IS NOT NULL AND NOT EXISTS ("
            " SELECT 1 FROM terminal t WHERE t.origin_partition = e.partition"
            " AND t.origin_offset = e.offset)"
        ),
    )
