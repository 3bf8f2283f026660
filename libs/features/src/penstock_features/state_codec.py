"""State vectors as bytes for a changelog: little-endian float64, the layout id first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock_features.aggregates import AggregateTable, Rows
from penstock_features.arrow_columns import Floats


def pack(vectors: Floats) -> list[bytes]:
    """Return one payload per state vector.

    Examples
    --------
    >>> pack(np.array([[1.0, 2.0]]))[0].hex()
    '000000000000f03f0000000000000040'
    """
    size = 8 * vectors.shape[1]
    data = np.ascontiguousarray(vectors, dtype="<f8").tobytes()
    return [data[at : at + size] for at in range(0, len(data), size)]


def pack_rows(table: AggregateTable, rows: Rows) -> tuple[list[bytes], list[bytes]]:
    """Return keys (UTF-8) and payloads of rows of a table."""
    return [key.encode() for key in table.keys(rows)], pack(table.vectors(rows))


def unpack_into(table: AggregateTable, keys: Sequence[bytes], payloads: Sequence[bytes]) -> int:
    """Load payloads into a table; later duplicates win.

    Returns
    -------
    How many were ignored because they were written under another layout.
    """
    size = 8 * table.layout.width
    fitting = [i for i, payload in enumerate(payloads) if len(payload) == size]
    ignored = len(payloads) - len(fitting)
    if fitting:
        data = b"".join(payloads[i] for i in fitting)
        vectors = np.frombuffer(data, dtype="<f8").reshape(len(fitting), table.layout.width)
        ignored += table.load([keys[i].decode() for i in fitting], vectors)
    return ignored
