"""pipeline.yaml of a running pipeline, read again after an edit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Literal

from penstock_schemas.errors import ConfigError

from penstock_pipelines.loader import CONFIG_FILE, LoadedPipeline, load_pipeline
from penstock_pipelines.model import PipelineConfig

logger = logging.getLogger(__name__)

LIVE_SECTIONS: Final = ("batching", "limits")
"""Sections of which at least a part follows an edit; for the others a restart is needed."""

Result = Literal["applied", "refused"]
_Stamp = tuple[int, int, int]


class PipelineWatch:
    """Reads pipeline.yaml again when the file has changed.

    An invalid edit changes nothing: it is logged, with its line, and counted.

    Parameters
    ----------
    loaded
        The pipeline as loaded at the start.
    count
        Called with the result of every edit that was read.

    Attributes
    ----------
    current
        Configuration as of the last check; any thread may read it.
    """

    def __init__(self, loaded: LoadedPipeline, count: Callable[[Result], object]) -> None:
        self._folder = loaded.folder
        self.current = loaded.config
        self._count = count
        self._seen: _Stamp | None = None
        self._read: _Stamp | None = None

    def config(self) -> PipelineConfig:
        """Return the newest valid configuration; costs one stat of the file.

        A file that has changed is read at the second check that finds it the same: an editor may
        still be writing at the first.
        """
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        if stamp is None or stamp != before or stamp == self._read:
            return self.current
        self._read = stamp
        try:
            found = load_pipeline(self._folder).config
        except ConfigError as exc:
            logger.error("the old settings stay, the edit is wrong: %s", exc)
            self._count("refused")
            return self.current
        if found != self.current:
            self._log_change(found)
            self.current = found
            self._count("applied")
        return self.current

    def _log_change(self, found: PipelineConfig) -> None:
        changed = [
            name
            for name in PipelineConfig.model_fields
            if getattr(found, name) != getattr(self.current, name)
        ]
        waiting = [name for name in changed if name not in LIVE_SECTIONS]
        logger.info("%s: edited: %s", self._folder / CONFIG_FILE, ", ".join(changed))
        if waiting:
            logger.warning("%s: these need a restart: %s", self._folder, ", ".join(waiting))

    def _stamp(self) -> _Stamp | None:
        """Return mtime, size and inode of the file; None while it is missing."""
        try:
            found = (self._folder / CONFIG_FILE).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
