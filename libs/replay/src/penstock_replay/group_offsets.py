"""``penstock offsets``: committed offsets of groups, shown, and set where there are no members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from penstock_schemas.errors import ConfigError, Refused
from penstock_streaming.audit import AuditLog, Operation
from penstock_streaming.settings import KafkaSettings

from penstock_replay.broker import Broker
from penstock_replay.offsets import Bound, Offsets, format_offsets

_SHOWN: Final = 5
"""Groups that an error names at most."""


@dataclass(frozen=True, slots=True)
class Position:
    """A group in one partition.

    Parameters
    ----------
    committed
        Next offset of the group; None if it has committed none.
    oldest, end
        First offset left, and the one after the last that is stable.
    """

    group: str
    state: str
    topic: str
    partition: int
    committed: int | None
    oldest: int
    end: int

    @property
    def lag(self) -> int:
        """Offsets between the group and the end, transaction markers included."""
        return max(0, self.end - (self.oldest if self.committed is None else self.committed))


@dataclass(frozen=True, slots=True)
class Move:
    """One partition of a seek."""

    topic: str
    partition: int
    committed: int | None
    target: int

    @property
    def is_backward(self) -> bool:
        """Whether records that the group has handled will be handled again."""
        return self.committed is not None and self.target < self.committed


class GroupOffsets:
    """Shows and sets the offsets of consumer groups."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._broker = Broker(kafka)

    def groups(self, name: str | None) -> list[str]:
        """Return the groups that a name means: a group, or all groups of a pipeline.

        Parameters
        ----------
        name
            None means every group of Penstock's services.

        Raises
        ------
        ConfigError
            If there is none.
        """
        there = sorted(self._broker.groups())
        ours = [group for group in there if group.startswith("penstock-")]
        if name is None:
            return ours
        if name in there:
            return [name]
        found = [group for group in ours if group.endswith(f"-{name}")]
        if not found:
            some = ", ".join(ours[:_SHOWN]) + (", …" if len(ours) > _SHOWN else "")
            raise ConfigError(
                f"--group {name}: neither a group nor a pipeline with groups; there are "
                f"{some or 'none'}"
            )
        return found

    def show(self, group: str) -> list[Position]:
        """Return where a group is."""
        committed = self._broker.committed(group)
        state = self._broker.groups().get(group, "gone")
        found = []
        for topic in sorted({t for t, _ in committed} & self._broker.topic_names()):
            facts = self._broker.topic(topic)
            found += [
                Position(group, state, topic, p, committed.get((topic, p)), facts.oldest[p], end)
                for p, end in sorted(facts.ends.items())
            ]
        return found

    def plan(self, group: str, topics: tuple[str, ...], to: Bound) -> list[Move]:
        """Return the moves of a group to a bound.

        Parameters
        ----------
        topics
            Only these; empty means all that the group has offsets of.

        Raises
        ------
        ConfigError
            If the group has no offsets, or an offset is outside of the log.
        """
        committed = self._broker.committed(group)
        chosen = topics or tuple(sorted({topic for topic, _ in committed}))
        if not chosen:
            raise ConfigError(f"--group {group} has no offsets: name its topics by --topic")
        wanted: Offsets = {}
        for name in chosen:
            facts = self._broker.topic(name)
            wanted.update({(name, p): o for p, o in self._broker.offsets_of(to, facts).items()})
        return self._checked(wanted, committed)

    def plan_file(self, group: str, wanted: Offsets) -> list[Move]:
        """Return the moves to given offsets; errors as `plan`."""
        return self._checked(wanted, self._broker.committed(group))

    def seek(self, moves: list[Move], operation: Operation, audit: AuditLog) -> None:
        """Set the offsets, between two audit records; the first keeps what they were before.

        Raises
        ------
        Refused
            If somebody works in the group.
        """
        group = operation.subject
        self.refuse_members(group)
        audit.ensure()
        before = {(m.topic, m.partition): m.committed for m in moves if m.committed is not None}
        begin = operation.event("begin")
        audit.write(replace(begin, arguments={**begin.arguments, "before": format_offsets(before)}))
        counts = {"partitions": len(moves), "backward": sum(m.is_backward for m in moves)}
        try:
            self.refuse_members(group)
            self._broker.commit(group, {(m.topic, m.partition): m.target for m in moves})
        except Exception as exc:
            audit.write(operation.event("end", outcome="failed", reason=str(exc)))
            raise
        audit.write(operation.event("end", outcome="succeeded", counts=counts))

    def refuse_members(self, group: str) -> None:
        """Refuse while a group has members: they would commit over what is set."""
        members = self._broker.members(group)
        if members:
            raise Refused(
                f"group {group} has {len(members)} members ({members[0]}): stop its service "
                "first, then seek"
            )

    def _checked(self, wanted: Offsets, committed: Mapping[tuple[str, int], int]) -> list[Move]:
        moves = []
        for topic in sorted({topic for topic, _ in wanted}):
            facts = self._broker.topic(topic)
            for (_, partition), target in sorted(w for w in wanted.items() if w[0][0] == topic):
                oldest, end = facts.oldest.get(partition), facts.ends.get(partition)
                if oldest is None or end is None or not oldest <= target <= end:
                    limits = "no such partition" if end is None else f"it has {oldest} to {end}"
                    raise ConfigError(f"offset {topic}/{partition}/{target}: {limits}")
                before = committed.get((topic, partition))
                moves.append(Move(topic, partition, before, target))
        return moves
