"""Runs the queries on a store and says what they found."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from penstock_ledger.invariants import INVARIANTS, Invariant
from penstock_ledger.store import Store

OFFENDERS_SHOWN: Final = 20
Offender = tuple[str, int, int, str]
"""(topic, partition, offset, what is wrong); no topic where it is not about a record."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold.

    Parameters
    ----------
    offenders
        The first of them.
    count
        How many there are in all.
    """

    invariant: str
    meaning: str
    count: int
    offenders: tuple[Offender, ...]

    def __str__(self) -> str:
        lines = [f"{self.invariant}: {self.count} offenders ({self.meaning})"]
        for topic, partition, offset, what in self.offenders:
            lines.append(f"  {topic}/{partition}/{offset}: {what}" if topic else f"  {what}")
        if self.count > len(self.offenders):
            lines.append(f"  … and {self.count - len(self.offenders)} more")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, with the figures that show how much was looked at.

    Parameters
    ----------
    events, tombstones, replays, features, predictions
        Records of the window in the read_committed view; replays are those events that are
        copies of others.
    dead_letters
        Number per class.
    aborted
        Records per role that only the read_uncommitted view shows: traces of aborted
        transactions.
    pending
        Events of the window that have no terminal record yet and need none yet.
    unjudged
        Predictions of a time whose routing states are no longer in the log.
    held
        Names of the invariants that hold.
    unmeasured
        Names of those that were not asked, and why.
    """

    findings: tuple[Finding, ...]
    events: int
    tombstones: int
    replays: int
    features: int
    predictions: int
    dead_letters: dict[str, int]
    aborted: dict[str, int]
    pending: int
    unjudged: int
    held: tuple[str, ...]
    unmeasured: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every invariant holds."""
        return not self.findings

    @property
    def drained(self) -> bool:
        """Whether every event of the window has reached its end."""
        return self.pending == 0

    @property
    def figures(self) -> str:
        """What was looked at, in two lines."""
        dead = ", ".join(f"{name} {n}" for name, n in sorted(self.dead_letters.items()))
        aborted = ", ".join(f"{role} {n}" for role, n in sorted(self.aborted.items()))
        return (
            f"events {self.events} (tombstones {self.tombstones}, copies {self.replays}), "
            f"features {self.features}, predictions {self.predictions}, pending {self.pending}\n"
            f"dead letters: {dead or 'none'}; aborted records: {aborted or 'none'}"
        )

    def __str__(self) -> str:
        lines = [self.figures, *(str(finding) for finding in self.findings)]
        lines += [f"{name}: not measured, {why}" for name, why in self.unmeasured.items()]
        if self.ok:
            lines.append("every invariant holds")
        return "\n".join(lines)


def check(store: Store, *, skip: Collection[str] = ()) -> Report:
    """Ask every invariant and return what was found.

    Parameters
    ----------
    skip
        Names of invariants that the run is known to break by design.
    """
    store.index()
    names = {str(role): str(name) for role, name in store.database.execute("SELECT * FROM topic")}
    findings: list[Finding] = []
    held: list[str] = []
    unmeasured: dict[str, str] = {}
    for invariant in INVARIANTS:
        why = "left out" if invariant.name in skip else _missing(store, invariant)
        if why is not None:
            unmeasured[invariant.name] = why
            continue
        count, first = _ask(store, invariant.query)
        if not count:
            held.append(invariant.name)
            continue
        shown = tuple((names.get(role or "", ""), p, o, what) for role, p, o, what in first)
        findings.append(Finding(invariant.name, invariant.meaning, count, shown))
    return _report(store, tuple(findings), tuple(held), unmeasured)


def _missing(store: Store, invariant: Invariant) -> str | None:
    """Return why an invariant cannot be measured, if it cannot."""
    if invariant.needs is None:
        return None
    table, why = invariant.needs
    query = f"SELECT 1 FROM {table} LIMIT 1"  # noqa: S608 - our own table
    return None if store.database.execute(query).fetchone() else why


def _ask(store: Store, query: str) -> tuple[int, list[tuple[str | None, int, int, str]]]:
    """Return how many offenders a query finds, and the first; the others are not kept."""
    count = 0

    def counted(
        rows: Iterable[tuple[str | None, int, int, str]],
    ) -> Iterator[tuple[str | None, int, int, str]]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    first = heapq.nsmallest(
        OFFENDERS_SHOWN,
        counted(store.database.execute(query)),
        key=lambda row: (row[0] or "", row[1], row[2], row[3]),
    )
    return count, first


def _report(
    store: Store, findings: tuple[Finding, ...], held: tuple[str, ...], unmeasured: dict[str, str]
) -> Report:
    def number(query: str) -> int:
        return int(store.database.execute(query).fetchone()[0])

    def numbers(query: str) -> dict[str, int]:
        return {str(name): int(n) for name, n in store.database.execute(query)}

    return Report(
        findings,
        events=number("SELECT count(*) FROM event"),
        tombstones=number("SELECT count(*) FROM event WHERE value IS NULL"),
        replays=number("SELECT count(*) FROM replay JOIN event USING (partition, offset)"),
        features=number("SELECT count(*) FROM feature"),
        predictions=number("SELECT count(*) FROM prediction"),
        dead_letters=numbers(
            "SELECT coalesce(h.value, '?'), count(*) FROM dead d"
            " JOIN dead_header h ON h.role = d.role AND h.partition = d.partition"
            " AND h.offset = d.offset AND h.name = 'dlq.class'"
            " GROUP BY 1"
        ),
        aborted=numbers(
            "SELECT u.role, count(*) FROM span s JOIN uncommitted u ON s.role = u.role"
            " AND s.partition = u.partition AND u.offset >= s.start AND u.offset < s.stable"
            " WHERE NOT EXISTS (SELECT 1 FROM record c WHERE c.role = u.role"
            "  AND c.partition = u.partition AND c.offset = u.offset) GROUP BY 1"
        ),
        pending=number(
            "SELECT count(*) FROM event e WHERE e.value IS NOT NULL AND NOT EXISTS ("
            " SELECT 1 FROM terminal t WHERE t.origin_partition = e.partition"
            " AND t.origin_offset = e.offset)"
        ),
        unjudged=number(
            "SELECT count(*) FROM prediction p WHERE EXISTS (SELECT 1 FROM routing) AND NOT EXISTS"
            " (SELECT 1 FROM judged j WHERE p.predicted_at BETWEEN j.since_ms AND j.until_ms)"
        ),
        held=held,
        unmeasured=unmeasured,
    )
