"""The sections of pipeline.yaml about sizes and times of the stream path."""

from __future__ import annotations

from typing import Annotated, Any

from penstock_schemas.topics import MIB
from pydantic import Field, PositiveInt

from penstock_pipelines.section import Section


class Limits(Section):
    """Limits on events, and on how many of them may fail."""

    max_event_bytes: PositiveInt = MIB
    """Larger records become dead letters of class oversize, bytes. Read at the start."""
    max_dead_letter_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the last 1,000 records of a partition that may become dead letters; beyond it the
    partition is closed until this is raised. 0 for any share. Follows an edit within seconds."""
    max_dead_letters_in_row: Annotated[int, Field(ge=0)] = 50
    """Dead letters one after the other in a partition; beyond it the partition is closed until
    this is raised. 0 for any number. Follows an edit within seconds."""


class Batching(Section):
    """Batches of the stream path; a running service follows an edit within seconds."""

    max_batch_rows: PositiveInt = 4096
    """Largest poll, rows."""
    max_in_flight: PositiveInt = 2
    """Batches submitted and not finished."""
    commit_interval_ms: PositiveInt = 100
    """Time between transaction commits, milliseconds."""
    deadline_ms: PositiveInt | None = None
    """Age of an event, by its event time, at which its features are not worth a prediction any
    more: the outcome is expired, milliseconds. Unset, no event is too old."""


def live_settings(batching: Batching, limits: Limits) -> dict[str, Any]:
    """Return what a running loop takes from pipeline.yaml, by the names of its settings."""
    return {
        "max_batch_rows": batching.max_batch_rows,
        "max_in_flight": batching.max_in_flight,
        "commit_interval_s": batching.commit_interval_ms / 1000,
        "max_dead_letter_share": limits.max_dead_letter_share,
        "max_dead_letters_in_row": limits.max_dead_letters_in_row,
    }
