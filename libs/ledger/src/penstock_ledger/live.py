"""One check of a running pipeline, from Kafka to the report."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from penstock_ledger.checks import Report, check
from penstock_ledger.reader import ReadOptions, read_pipeline
from penstock_ledger.records import LedgerTopics
from penstock_ledger.store import Store
from penstock_ledger.window import Since, window_from

__all__ = ["Since", "check_pipeline"]


def check_pipeline(
    topics: LedgerTopics,
    options: ReadOptions,
    since: Since = None,
    folder: Path | None = None,
) -> Report:
    """Read a pipeline's log, still growing or not, and check it.

    Parameters
    ----------
    since
        Look only at the events from then on; at all by default.
    folder
        Where the database lies meanwhile, about 0.5 GB per million events; the system's temporary
        folder by default.

    Raises
    ------
    LedgerUnreachable
        If Kafka or the registry does not answer, or the time is up.
    ConfigError
        If there is no such pipeline.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-ledger-", dir=folder) as place:
        store = Store(topics, Path(place) / "ledger.sqlite")
        try:
            if since is not None:
                options = replace(options, start=window_from(topics, options, since))
            read_pipeline(store, options)
            return check(store)
        finally:
            store.close()
