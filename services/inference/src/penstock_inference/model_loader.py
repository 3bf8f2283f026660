"""Loads the versions that take traffic onto the model server, warms them, and keeps them loaded.

Several routers share one model server, so a version that is not needed any more is unloaded by its
publisher. What is unloaded here is loaded again at once: a model whose process has died. The server
calls it ready, fails every call, and starts it anew only so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import numpy as np
from penstock_schemas.errors import (
    ConfigError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    RecordError,
)
from penstock_schemas.records import ModelVersion
from penstock_streaming.timing import Outage

from penstock_inference.model_server import INPUT, Matrix, ModelServer, SampleRows, ServedModel

logger = logging.getLogger(__name__)

LONGEST_RETRY_S: Final = 30.0
"""Longest wait before a canary that did not load, or a dead process, is tried again, seconds."""
PROBES: Final = 3
"""Calls in a row that a suspected model must fail: one may meet a restart."""
PROBE_TIMEOUT_S: Final = 2.0
FIRST_HEAL_WAIT_S: Final = 5.0
"""Wait after a model was loaded anew before that is done again, seconds; doubles each time."""
WARM_UP_ROWS: Final = (1, 16, 256)
"""Rows of the calls that warm a version; a full batch comes last.

A runtime plans its memory anew for a larger one."""
WARM_UP_TIMEOUT_S: Final = 5.0


class ModelLoader:
    """What is loaded for one pipeline; called by one thread, `describe` by any.

    Parameters
    ----------
    samples
        Rows that the champion has answered: they warm a version.
    suspects
        Models through which no row goes, by name, each with a row that once did; written by any
        thread, emptied by `heal`.
    width, max_rows
        Number of features of the pipeline, and most rows of a call that it allows.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        server: ModelServer,
        samples: SampleRows,
        suspects: dict[str, Matrix | None],
        *,
        width: int,
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._samples = samples
        self._suspects = suspects
        self._server = server
        self._width = width
        self._max_rows = max_rows
        self._clock = clock
        self._known: dict[tuple[str, str], ServedModel] = {}
        self._outages: dict[str, Outage] = {}
        self._heals: dict[str, Outage] = {}
        self.troubles: dict[str, str] = {}
        """Why a canary takes no traffic, by its name on the server."""

    def known(self, version: ModelVersion) -> ServedModel | None:
        """Return the model of a version that is loaded and ready; None where it is not."""
        model = self._known.get(_identity(version))
        return model if model is not None and self._server.model_ready(version.served_as) else None

    def load(self, version: ModelVersion) -> ServedModel:
        """Load and warm a version, or load again what the server has lost in a restart.

        Raises
        ------
        ModelUnavailable
            The server is away, or the version does not load, or fails on rows that were seen.
        ConfigError
            The version does not fit the pipeline.
        """
        self._server.load_model(version.served_as)
        model = self.describe(version)
        _warm_up(self._server, model, self._samples)
        self._known[_identity(version)] = model
        return model

    def heal(self, version: ModelVersion) -> None:
        """Load a suspected version anew if its process is dead; at most once in a while.

        Raises
        ------
        ModelUnavailable
            The version does not load again.
        """
        name = version.served_as
        model = self._known.get(_identity(version))
        if model is None or name not in self._suspects:
            return
        outage = self._heals.setdefault(name, Outage(LONGEST_RETRY_S, self._clock))
        if outage.remaining_s > 0.0:
            return
        row = self._suspects.pop(name)
        if self._answers(model, np.zeros((1, model.width), np.float32) if row is None else row):
            outage.end()
            return
        outage.begin(ModelUnavailable(f"{name} is dead", retry_after_s=FIRST_HEAL_WAIT_S))
        logger.warning("%s fails every call though the server calls it ready: loaded anew", name)
        self._server.reload_model(name)

    def probe(self, model: ServedModel, row: Matrix) -> ModelUnavailable | None:
        """Send one row, shape (1, d), to a model; return why it is not answered, None if it is."""
        try:
            self._server.infer(model, {INPUT: row}, PROBE_TIMEOUT_S)
        except ModelUnavailable as exc:
            return exc
        except ModelRejected as exc:
            return ModelUnavailable(str(exc))
        except RecordError:
            pass  # refused by a process that lives
        return None

    def _answers(self, model: ServedModel, row: Matrix) -> bool:
        """Return whether a row goes through, or the server does not call the model ready."""
        for _ in range(PROBES):
            try:
                self._server.infer(model, {INPUT: row}, PROBE_TIMEOUT_S)
                return True
            except (ModelRejected, ModelUnavailable):
                # A dead process lets each call wait; behind those of others that is a time-out.
                if not self._server.model_ready(model.name):
                    return True  # unloaded or away: `known` sees to that
            except RecordError:
                return True  # refused by a process that lives
        return False

    def canary(self, version: ModelVersion, champion: ServedModel) -> ServedModel | None:
        """Return the model of a canary, loaded and ready; None, with its trouble noted, if not.

        What fails is tried again after ever longer pauses: a load may take its whole deadline, and
        the champion is not looked after meanwhile.
        """
        name = version.served_as
        outage = self._outages.get(name)
        if outage is not None and outage.remaining_s > 0.0:
            return None
        try:
            self.heal(version)
            model = self.known(version) or self.load(version)
            _check_scores(model, champion)
        except PenstockError as exc:
            outage = self._outages.setdefault(name, Outage(LONGEST_RETRY_S, self._clock))
            outage.begin(ModelUnavailable(str(exc)))
            self.troubles[name] = str(exc)
            return None
        self._outages.pop(name, None)
        self.troubles.pop(name, None)
        return model

    def describe(self, version: ModelVersion) -> ServedModel:
        """Return what the server says about a loaded version, within the pipeline's limits.

        Raises
        ------
        ModelUnavailable
            The server is away or the version is not loaded.
        ConfigError
            The version does not fit the pipeline.
        """
        model = self._server.model_metadata(version.served_as)
        if model.width != self._width:
            raise ConfigError(
                f"model {version.served_as} takes {model.width} features, "
                f"the pipeline has {self._width}"
            )
        return replace(model, max_rows=min(model.max_rows, self._max_rows))

    def forget_all_but(self, versions: Iterable[ModelVersion]) -> None:
        """Forget the versions that take no traffic any more: they may be unloaded at any time."""
        kept = {_identity(version) for version in versions}
        names = {name for name, _ in kept}
        self._known = {key: model for key, model in self._known.items() if key in kept}
        for noted in (self._outages, self._heals, self._suspects):
            for name in set(noted) - names:
                noted.pop(name, None)
        self.troubles = {name: why for name, why in self.troubles.items() if name in names}


def _identity(version: ModelVersion) -> tuple[str, str]:
    return version.served_as, version.digest


def _check_scores(canary: ServedModel, champion: ServedModel) -> None:
    """Check that both answer with equally many scores: a batch of both is one matrix."""
    if canary.score_width != champion.score_width or canary.score_width < 1:
        raise ConfigError(
            f"model {canary.name} answers {canary.score_width} scores a row, "
            f"the champion {champion.score_width}"
        )


def _warm_up(server: ModelServer, model: ServedModel, samples: SampleRows) -> None:
    """Send a loaded version rows that its predecessor has answered.

    Where none have been seen, zeros are sent, and what becomes of them says nothing.

    Raises
    ------
    ModelUnavailable
        It fails on rows that were seen, or answers none of them with a finite score: the version
        that serves goes on.
    """
    is_real = samples.has_sample(model.width)
    for rows in sorted({min(size, model.max_rows) for size in (*WARM_UP_ROWS, model.max_rows)}):
        try:
            scores = server.infer(
                model, {INPUT: samples.sample(rows, model.width)}, WARM_UP_TIMEOUT_S
            )
        except (RecordError, ModelUnavailable) as exc:
            if is_real:
                raise ModelUnavailable(f"{model.name} fails on rows that were seen: {exc}") from exc
            return
        if is_real and not np.isfinite(scores).all(axis=1).any():
            raise ModelUnavailable(f"{model.name} answers rows that were seen with no finite score")
