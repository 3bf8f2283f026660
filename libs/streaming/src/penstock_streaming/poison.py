"""Finding the record that keeps killing its worker.

A worker that is killed (by a signal, not by an error of ours) leaves behind which ranges of offsets
it had in flight. Its successor reads such a range in ever smaller slices, one at a time; a record
that was alone in flight when the last of `POISON_DEATHS` workers died is poison.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from confluent_kafka import Message
from penstock_schemas.errors import PoisonRecord

from penstock_streaming.handler import MessageBatch

logger = logging.getLogger(__name__)

POISON_DEATHS: Final = 4
"""One with the whole range in flight, one with a slice, two with the record alone."""
_SLICES: Final = 32


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets of one partition that were in flight together.

    Parameters
    ----------
    first, last
        Both included.
    deaths
        Workers that died with them in flight.
    """

    partition: int
    first: int
    last: int
    deaths: int = 0

    @property
    def slice_rows(self) -> int:
        """Most rows that may be in flight at once."""
        return 1 if self.deaths > 1 else -(-(self.last - self.first + 1) // _SLICES)


@dataclass(frozen=True, slots=True)
class Part:
    """Messages to be handled as one batch.

    Parameters
    ----------
    deaths
        Of the range they come from; above 0 nothing else may be in flight.
    """

    messages: Sequence[Message]
    deaths: int = 0

    @property
    def is_poison(self) -> bool:
        """Whether its one record has killed workers often enough."""
        return self.deaths >= POISON_DEATHS and len(self.messages) == 1

    def error(self) -> PoisonRecord:
        """Return why its record becomes a dead letter."""
        return PoisonRecord(f"the worker was killed {self.deaths} times with it in flight")


class Suspects:
    """The ranges that earlier workers died with. Pure."""

    def __init__(self) -> None:
        self._ranges: list[Range] = []

    def suspect(self, ranges: Iterable[Range]) -> None:
        """Suspect more ranges."""
        self._ranges.extend(ranges)

    def parts(self, messages: Sequence[Message]) -> list[Part]:
        """Split what was read so that suspects are handled in slices; order is kept."""
        if not self._ranges:
            return [Part(messages)]
        groups: list[tuple[Range | None, list[Message]]] = []
        for message in messages:
            found = self._range_of(message)
            same = bool(groups) and groups[-1][0] == found
            if not same or (found is not None and len(groups[-1][1]) >= found.slice_rows):
                groups.append((found, []))
            groups[-1][1].append(message)
        self._drop_passed(messages)
        return [Part(part, suspect.deaths if suspect else 0) for suspect, part in groups]

    def _drop_passed(self, messages: Sequence[Message]) -> None:
        """Drop what has been read to its end: the parts themselves remember from here on."""
        reached: dict[int | None, int] = {m.partition(): m.offset() or 0 for m in messages}
        self._ranges = [r for r in self._ranges if reached.get(r.partition, -1) < r.last]

    def _range_of(self, message: Message) -> Range | None:
        partition, offset = message.partition(), message.offset() or 0
        within = (
            r for r in self._ranges if r.partition == partition and r.first <= offset <= r.last
        )
        return max(within, key=lambda r: r.deaths, default=None)


class FlightJournal:
    """What this process has in flight, in a file that outlives it.

    Parameters
    ----------
    folder
        Shared by the workers of a host.
    topic
        The input topic.

    Notes
    -----
    The page cache outlives the process, so nothing is synced: a host that goes down is no poison.
    """

    def __init__(self, folder: Path, topic: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._topic = topic
        self._path = folder / f"{topic}.{os.getpid()}.flight"
        # A container gives every life the same pid.
        self._inherited = self._claim(self._path)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def inherited(self) -> list[Range]:
        """Return what workers of this topic that are dead by now had in flight; each only once."""
        found, self._inherited = self._inherited, []
        for path in self._folder.glob(f"{self._topic}.*.flight"):
            if path != self._path and not _is_alive(path.name.split(".")[-2]):
                found += self._claim(path)
        if found:
            logger.warning("%s: a worker died with %s in flight", self._topic, found)
        return found

    def record(self, ranges: Iterable[Range]) -> None:
        """Replace what is written by what is in flight now."""
        text = json.dumps([[r.partition, r.first, r.last, r.deaths] for r in ranges])
        os.pwrite(self._file, text.encode() + b"\n", 0)

    def close(self) -> None:
        """Forget: the process ends by itself, whatever the reason."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _claim(self, path: Path) -> list[Range]:
        claimed = path.with_suffix(f".claimed-{os.getpid()}")
        try:
            path.rename(claimed)
            line = claimed.read_bytes().partition(b"\n")[0]
            claimed.unlink()
            return [
                Range(p, first, last, deaths + 1) for p, first, last, deaths in json.loads(line)
            ]
        except FileNotFoundError:
            return []
        except ValueError:
            return []  # killed before or while it wrote: nothing was in flight


def _is_alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def ranges_of(batch: MessageBatch, deaths: int) -> list[Range]:
    """Return the ranges of a batch, one per partition."""
    ranges = []
    for partition in np.unique(batch.partitions).tolist():
        offsets = batch.offsets[batch.partitions == partition]
        ranges.append(Range(partition, int(offsets[0]), int(offsets[-1]), deaths))
    return ranges
