"""What must hold of a handled batch before it is produced. Pure.

Every row ends in exactly one of output, dead letter, counted skip; and nothing is handed to the
producer that no broker would take, since it would abort every transaction for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from penstock_schemas.errors import FatalError, Oversize, RecordError

from penstock_streaming.handler import HandledBatch, MessageBatch, OutputColumns


def check_accounted(batch: MessageBatch, handled: HandledBatch) -> None:
    """Check that every row has one terminal outcome.

    Raises
    ------
    FatalError
        If the numbers do not add up or a dead letter names no row, or a row twice.
    """
    dead = [row for row, _ in handled.dead_letters]
    skipped = sum(handled.skipped.values())
    if handled.terminal + len(dead) + skipped != len(batch):
        raise FatalError(
            f"{len(batch)} rows of {batch.topic} became {handled.terminal} outputs, "
            f"{len(dead)} dead letters and {skipped} skips"
        )
    if dead and (len(set(dead)) != len(dead) or min(dead) < 0 or max(dead) >= len(batch)):
        raise FatalError(f"dead letters of {batch.topic} name a row twice or none: {dead[:20]}")


def without_oversize(handled: HandledBatch, limit_bytes: int) -> HandledBatch:
    """Turn the rows of records that are too large to produce into dead letters.

    All outputs of such a row are dropped, its terminal one among them.

    Raises
    ------
    FatalError
        If the record does not tell its row.
    """
    large: dict[int, tuple[str, int]] = {}
    for columns in handled.outputs:
        if not fits(columns, limit_bytes):
            large.update(_large_rows(columns, limit_bytes))
    if not large:
        return handled
    dead_before = {row for row, _ in handled.dead_letters}
    fresh: list[tuple[int, RecordError]] = [
        (row, _oversize(topic, size, limit_bytes))
        for row, (topic, size) in sorted(large.items())
        if row not in dead_before
    ]
    return replace(
        handled,
        outputs=[_without_rows(columns, large.keys()) for columns in handled.outputs],
        dead_letters=[*handled.dead_letters, *fresh],
        terminal=handled.terminal - len(fresh),
    )


def fits(columns: OutputColumns, limit_bytes: int) -> bool:
    """Tell, by the largest key and the largest value, whether every record can be produced."""
    return _longest(columns.values) + _longest(columns.keys) <= limit_bytes


def _longest(values: Sequence[bytes | None]) -> int:
    try:
        return max(map(len, values), default=0)  # type: ignore[arg-type]
    except TypeError:  # a None among them
        return max((len(value) for value in values if value is not None), default=0)


def _large_rows(columns: OutputColumns, limit_bytes: int) -> dict[int, tuple[str, int]]:
    sizes = [
        len(value or b"") + len(key or b"")
        for value, key in zip(columns.values, columns.keys, strict=True)
    ]
    found = [i for i, size in enumerate(sizes) if size > limit_bytes]
    if found and columns.rows is None:
        raise FatalError(
            f"a record of {sizes[found[0]]} bytes for {columns.topic} is larger than "
            f"{limit_bytes} and does not tell its row"
        )
    rows: Any = columns.rows
    return {int(rows[i]): (columns.topic, sizes[i]) for i in found}


def _oversize(topic: str, size: int, limit_bytes: int) -> Oversize:
    return Oversize(
        f"output for {topic} is too large",
        expected=f"at most {limit_bytes} bytes",
        got=f"{size} bytes",
        stage="produce",
    )


def _without_rows(columns: OutputColumns, rows: Any) -> OutputColumns:
    if columns.rows is None:
        return columns
    kept = [i for i, row in enumerate(columns.rows) if int(row) not in rows]

    return OutputColumns(
        topic=columns.topic,
        keys=[columns.keys[i] for i in kept],
        values=[columns.values[i] for i in kept],
        partitions=[int(columns.partitions[i]) for i in kept],
        rows=[int(columns.rows[i]) for i in kept],
    )
