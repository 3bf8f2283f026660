"""What a run of the simulator published."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock_simulator.bad_events import SpoiltEvent


@dataclass(slots=True)
class SimulationReport:
    """What was published.

    Parameters
    ----------
    good_ids
        Ids of the events sent in good form, in order.
    spoilt
        The others, each with what must become of it.
    labels
        Interactions sent.
    positives
        Events sent whose truth is 1.
    start_ms, end_ms
        Simulated time of the first and last event.
    wall_s
        Time it took, seconds.
    """

    good_ids: list[str] = field(default_factory=list)
    spoilt: list[SpoiltEvent] = field(default_factory=list)
    labels: int = 0
    positives: int = 0
    start_ms: int = 0
    end_ms: int = 0
    wall_s: float = 0.0

    @property
    def events(self) -> int:
        """Number of events sent."""
        return len(self.good_ids) + len(self.spoilt)

    @property
    def events_per_s(self) -> float:
        """Events per second of wall-clock time."""
        return self.events / self.wall_s if self.wall_s else 0.0
