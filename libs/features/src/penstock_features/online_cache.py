"""Online features kept while SQLite vouches that its file has not changed.

One Feast read costs tens of microseconds an entity; asking SQLite whether anybody has committed to
the file costs about one microsecond a batch. So nothing that is kept can hide a value changed from
outside: any commit of any process empties the cache before the next read.

References
----------
SQLite, "PRAGMA data_version": differs after a commit by another connection, in this process or in
another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from penstock_features.arrow_columns import Floats

MAX_ENTITIES = 500_000
"""The cache is emptied when it would hold more."""
Version = tuple[int, int, int]
Read = Callable[[Sequence[str]], Floats]


class SqliteVersion:
    """Tells versions of a SQLite file apart.

    Parameters
    ----------
    path
        The file; it must be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._stat()
        # Threads: Feast is called on a thread of its own, one call at a time.
        self._connection = sqlite3.connect(path, check_same_thread=False)

    @property
    def is_replaced(self) -> bool:
        """Tell whether another file lies under the name now."""
        try:
            return self._stat() != self._identity
        except FileNotFoundError:
            return True

    def current(self) -> int:
        """Return a number that changes with every commit of another connection."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _stat(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino


class OnlineCache:
    """Rows of online features by entity key, of one version of the store.

    Parameters
    ----------
    width
        Features per entity.
    """

    def __init__(self, width: int) -> None:
        self._version: int | None = None
        self._rows: dict[str, int] = {}
        self._values = np.empty((64, width), dtype=np.float64)

    def read(self, keys: Sequence[str], version: int, read: Read) -> Floats:
        """Return the values of entities, shape (keys, width).

        Parameters
        ----------
        keys
            Entity keys, each once.
        version
            Of the store, taken before this call.
        read
            Reads entities from the store; what it returns is at least as new as ``version``.
        """
        if version != self._version or len(self._rows) + len(keys) > MAX_ENTITIES:
            self._rows.clear()
            self._version = version
        rows = self._rows
        missing = [key for key in keys if key not in rows]
        if missing:
            self._add(missing, read(missing))
        values: Floats = self._values[[rows[key] for key in keys]]
        return values

    def _add(self, keys: Sequence[str], values: Floats) -> None:
        start = len(self._rows)
        end = start + len(keys)
        if end > len(self._values):
            more = np.empty((max(end, 2 * len(self._values)), values.shape[1]), dtype=np.float64)
            more[:start] = self._values[:start]
            self._values = more
        self._values[start:end] = values
        self._rows.update(zip(keys, range(start, end), strict=True))
