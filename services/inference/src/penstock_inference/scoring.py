"""One data plane for stream and REST: who is asked for a row, and what the outcome says.

The champion answers. A canary answers for the keys of its share and may be wrong in any way:
whatever it does not answer, the champion is asked for; only what the champion fails on is a
failure. The server says only that a call failed, and the cause may be one row or the model itself:
a row is called bad when it fails alone while a row that is known to be good goes through just
before. If no row goes through, the model is away and nothing is said about any record.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from penstock_schemas.errors import (
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    RecordError,
    ShapeMismatch,
)
from penstock_streaming.timing import Deadline

from penstock_inference.circuit_breaker import BESIDE, BreakerState, CircuitBreakers
from penstock_inference.metrics import InferenceMetrics
from penstock_inference.model_server import (
    INPUT,
    DeadlineHit,
    Matrix,
    ModelServer,
    PendingScores,
    SampleRows,
    ServedModel,
)
from penstock_inference.tensors import RowErrors, Rows, finite_scores
from penstock_inference.traffic_split import CANARY, Route, RouteTable, Which

ISOLATION_S = 10.0
"""Time to find the rows that a model fails on, seconds; then the batch is tried again."""
CANARY_ISOLATION_S = 1.0
"""The same for a canary, seconds; then the champion answers all of its rows."""
CANARY_TIMEOUT_S: Final = 2.0
"""Longest deadline of a call to a canary, seconds: the champion's rows wait for it too."""
OPEN_RETRY_S: Final = 0.25
"""Wait that a refusal by an open circuit asks for, seconds; it has cost nothing."""
PROBE_PAUSE_S: Final = 0.05
"""Pause between two probes of a model whose process has just died, seconds."""

Found = tuple[Matrix, RowErrors]
"""Scores, and (row, why) of the rows that have none, ascending."""
T = TypeVar("T")


class ServingState:
    """What serves one pipeline now: written by the model manager, read by the data plane.

    Parameters
    ----------
    metrics
        Show who serves and the states of the circuits.
    clock
        Monotonic seconds.

    Attributes
    ----------
    table
        Who answers for which keys; None while nothing serves.
    breakers
        The circuits of the pipeline's models, by name on the server.
    samples
        Rows that the champion has answered.
    suspects
        Models through which no row goes, each with a row that once did.
    wake
        Set when the manager is to look at once.
    """

    def __init__(
        self,
        pipeline: str,
        metrics: InferenceMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pipeline = pipeline
        self.metrics = metrics
        self.table: RouteTable | None = None
        self.breakers = CircuitBreakers(clock, self._show_breaker)
        self.samples = SampleRows(clock)
        self.suspects: dict[str, Matrix | None] = {}
        self.wake = threading.Event()

    def swap_table(self, table: RouteTable | None) -> None:
        """Replace the table; a new champion starts with a closed circuit."""
        before, self.table = self.table, table
        self.metrics.serving(table, before)
        if table is None:
            return
        champion = table.champion.model.name
        if before is None or before.champion.model.name != champion:
            # What opened it as a canary says little about one that nobody stands in for.
            self.breakers.reset_breaker(champion)
        for route in (*table.routes, *table.shadows):
            self.metrics.breaker(route.version, self.breakers.state(route.model.name))

    def suspect_model(self, name: str, row: Matrix | None) -> None:
        """Have the manager look at a model that no row goes through.

        Parameters
        ----------
        row
            One that went through before, shape (1, d); zeros stand in where there is none.
        """
        self.suspects[name] = row
        self.wake.set()

    def is_champion(self, name: str) -> bool:
        """Return whether a model on the server is the champion now."""
        table = self.table
        return table is not None and table.champion.model.name == name

    def _show_breaker(self, name: str, state: BreakerState) -> None:
        table = self.table
        for route in () if table is None else (*table.routes, *table.shadows):
            if route.model.name == name:
                self.metrics.breaker(route.version, state)


class DataPlane:
    """Asks the models of one pipeline and judges what comes back; for stream and REST alike.

    Parameters
    ----------
    timeout_s
        Deadline of one call, seconds.
    """

    def __init__(self, server: ModelServer, serving: ServingState, timeout_s: float) -> None:
        self.server = server
        self.serving = serving
        self.timeout_s = timeout_s
        self._good_rows: dict[str, Matrix] = {}
        self._table: RouteTable | None = None

    def current_table(self) -> RouteTable:
        """Return who answers for which keys now.

        Raises
        ------
        ModelUnavailable
            Nothing serves.
        """
        table = self.serving.table
        if table is None:
            raise ModelUnavailable(f"no model serves {self.serving.pipeline} yet")
        if table is not self._table:
            names = {route.model.name for route in table.routes}
            self._good_rows = {n: row for n, row in self._good_rows.items() if n in names}
            self._table = table
        return table

    def start_call(self, route: Route, matrix: Matrix, limit_s: float = math.inf) -> PendingScores:
        """Send a matrix, shape (n, d), and return at once; ``limit_s`` shortens the deadline.

        Raises
        ------
        ModelUnavailable
            The champion's circuit is open. A canary is asked only by who knows its to be closed.
        """
        self.check_circuit(route)
        timeout_s = min(self.timeout_s, limit_s)
        return self.server.start_inference(route.model, {INPUT: matrix}, timeout_s)

    def wait_for_scores(
        self,
        route: Route,
        matrix: Matrix,
        call: PendingScores,
        timeout_s: float,
        isolation_s: float | None = None,
    ) -> Found:
        """Return the scores of a call; where it fails, find the rows that the model fails on.

        Parameters
        ----------
        isolation_s
            Time for that, seconds; `ISOLATION_S` if not given.

        Raises
        ------
        ModelUnavailable
            The model is away; the same rows are to be tried again.
        """
        errors: RowErrors = []
        try:
            try:
                scores = call.scores(timeout_s)
            except ShapeMismatch as exc:
                # All rows have the model's own width: what is refused is the same for each.
                scores, errors = refused(matrix, exc)
            except ModelRejected:
                limit_s = ISOLATION_S if isolation_s is None else isolation_s
                scores, errors = self._isolate(route.model, matrix, limit_s)
        except ModelUnavailable as exc:
            self.record_call(route.model, exc)
            raise
        self.record_call(route.model, None)
        return scores, self.accept_scores(route.model, matrix, scores, errors)

    def ask_route(self, route: Route, matrix: Matrix) -> Found:
        """Send a matrix and wait for its scores; as `wait_for_scores`."""
        # A little longer than the call's own deadline, so that its error is the one seen.
        call = self.start_call(route, matrix)
        return self.wait_for_scores(route, matrix, call, self.timeout_s + 1.0)

    def check_circuit(self, route: Route) -> None:
        """Raise ModelUnavailable where the champion's circuit is open: no call is sent."""
        name = route.model.name
        if self.serving.is_champion(name) and not self.serving.breakers.is_closed(name):
            raise ModelUnavailable(f"{name} fails: no call is sent", retry_after_s=OPEN_RETRY_S)

    def record_call(self, model: ServedModel, error: PenstockError | None) -> None:
        """Count how a call has ended for the champion's circuit; a canary's is `SplitBatch`'s.

        Parameters
        ----------
        error
            None where it was answered.
        """
        serving = self.serving
        if isinstance(error, DeadlineHit) and serving.table is not None:
            for route in serving.table.routes:
                if route.model.name == model.name:
                    serving.metrics.deadline_hit(route)
        if not serving.is_champion(model.name):
            return
        if isinstance(error, ModelUnavailable):
            serving.breakers.record_failure(model.name, error)
        elif error is None or isinstance(error, RecordError):
            serving.breakers.record_success(model.name)

    def accept_scores(
        self, model: ServedModel, matrix: Matrix, scores: Matrix, errors: RowErrors
    ) -> RowErrors:
        """Return ``errors`` and the rows whose scores are not finite; keep good rows as samples."""
        known = {row for row, _ in errors}
        errors = [*errors, *((row, e) for row, e in finite_scores(scores) if row not in known)]
        errors.sort(key=lambda item: item[0])
        if model.name not in self._good_rows:
            bad = {row for row, _ in errors}
            good = next((row for row in range(len(matrix)) if row not in bad), None)
            if good is not None:
                self._good_rows[model.name] = matrix[good : good + 1].copy()
        if not errors and self.serving.is_champion(model.name):
            self.serving.samples.keep_sample(matrix)
        return errors

    def good_row(self, model: ServedModel) -> Matrix:
        """Return a row, shape (1, d), that the model, or else the champion, has answered.

        Zeros stand in where there is none.
        """
        row = self._good_rows.get(model.name)
        return self.serving.samples.sample(1, model.width) if row is None else row

    def _isolate(self, model: ServedModel, matrix: Matrix, limit_s: float) -> Found:
        self.serving.metrics.isolations.inc()
        probe = self.good_row(model)

        def infer(part: Matrix) -> Matrix:
            return self.server.infer(model, {INPUT: part}, min(self.timeout_s, limit_s))

        try:
            return isolate(infer, matrix, probe, limit_s)
        except ModelUnavailable:
            self.serving.suspect_model(model.name, probe)
            raise


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores that one version gave."""

    route: Route
    scores: Matrix


@dataclass(frozen=True, slots=True)
class Answers:
    """The scores of n rows and who gave them.

    Parameters
    ----------
    scores
        Shape (n, k), float32; not to be used in the rows of ``errors``.
    errors
        (row, why) of the rows that the champion fails on, ascending.
    which
        Per row the index of its route in the table; None where the champion gave all.
    fallbacks
        Rows that the champion answered for each canary.
    """

    scores: Matrix
    errors: RowErrors
    which: Which | None = None
    fallbacks: Sequence[tuple[Route, int]] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """The rows that one route is asked for; ``rows`` are their places in the batch."""

    route: Route
    rows: Rows
    matrix: Matrix

    @property
    def limit_s(self) -> float:
        """Deadline of the call beside the pipeline's own, seconds."""
        return CANARY_TIMEOUT_S if self.route.variant == CANARY else math.inf


class SplitBatch:
    """Rows divided among champion and canaries, and put together from what they answer.

    Sends nothing itself: `merge_parts` says whose scores it wants, so that the stream can wait for
    them in its thread and REST in its event loop.

    Parameters
    ----------
    matrix
        Shape (n, d), float32, n ≥ 1.
    which
        Shape (n,): the route of each row's key, by its index in the table.
    """

    def __init__(
        self, breakers: CircuitBreakers, table: RouteTable, matrix: Matrix, which: Which
    ) -> None:
        self._breakers = breakers
        self._routes = table.routes
        self._matrix = matrix
        self._wanted = which
        self._asked = which.copy()
        # Only of those with rows: whoever is allowed in a half-open breaker has taken the probe.
        for index in map(int, np.unique(which)):
            if index and not breakers.allow_call(self._routes[index].model.name):
                self._asked[which == index] = 0
        self.parts = [self._part(int(index)) for index in np.unique(self._asked)]
        """Of the champion first, then of each canary that may be asked."""
        width = max(1, self._routes[0].model.score_width)
        self._scores = np.full((len(matrix), width), np.nan, dtype=np.float32)
        self._which = self._asked.copy()
        self._errors: RowErrors = []

    def merge_parts(self) -> Generator[Part, Found, Answers]:
        """Yield each part whose scores are wanted; to be sent them, or thrown why there are none.

        Returns
        -------
        The answers in the order of the rows. What the champion's part raises ends it.
        """
        champion = self._routes[0]
        # The champion first: while it is away nothing is said about a canary.
        for part in self.parts:
            if part.route is champion:
                if not self._take_champion(part.rows, *(yield part)):
                    return (yield from self._champion_alone())
                continue
            try:
                self._take_canary(part, *(yield part))
            except PenstockError as exc:
                # Even what would be fatal of a champion is only the end of this canary's try.
                self._breakers.record_failure(part.route.model.name, exc, BESIDE)
                self._which[part.rows] = 0
        left = np.flatnonzero((self._which == 0) & (self._asked != 0))
        if len(left):
            found = yield Part(champion, left, self._matrix[left])
            if not self._take_champion(left, *found):
                return (yield from self._champion_alone())
        self._errors.sort(key=lambda item: item[0])
        return self._answers(self._scores)

    def _part(self, index: int) -> Part:
        rows = np.flatnonzero(self._asked == index)
        return Part(self._routes[index], rows, self._matrix[rows])

    def _take_champion(self, rows: Rows, scores: Matrix, errors: RowErrors) -> bool:
        """Take over its answer; return False where its width is not the described one."""
        if len(errors) < len(rows):
            if scores.shape[1] != self._scores.shape[1]:
                return False
            self._scores[rows] = scores
        self._errors.extend((int(rows[row]), error) for row, error in errors)
        return True

    def _champion_alone(self) -> Generator[Part, Found, Answers]:
        """Ask the champion for all rows: its scores are of another width than it describes."""
        rows = np.arange(len(self._matrix))
        scores, self._errors = yield Part(self._routes[0], rows, self._matrix)
        self._which = np.zeros(len(rows), dtype=np.int8)
        return self._answers(scores)

    def _take_canary(self, part: Part, scores: Matrix, errors: RowErrors) -> None:
        """Take over its answer and leave the champion the rows without; raise if all is wrong."""
        width = self._scores.shape[1]
        if len(errors) < len(scores):
            if scores.shape[1] != width:
                got = str(scores.shape[1])
                raise ShapeMismatch("wrong number of scores", expected=str(width), got=got)
            self._breakers.record_success(part.route.model.name)
            self._scores[part.rows] = scores
        elif len(scores) > 1:
            raise errors[0][1]  # a lone row may be wrong itself
        self._which[part.rows[[row for row, _ in errors]]] = 0

    def _answers(self, scores: Matrix) -> Answers:
        moved = (self._wanted != 0) & (self._which == 0)
        moved[[row for row, _ in self._errors]] = False
        counts = np.bincount(self._wanted[moved], minlength=len(self._routes))
        fallbacks = [(self._routes[at], int(counts[at])) for at in np.flatnonzero(counts)]
        return Answers(scores, self._errors, self._which, fallbacks)


class PendingAnswers:
    """A batch that is with the models, all calls in flight at once.

    Parameters
    ----------
    matrix
        Shape (n, d), float32, n ≥ 1.
    which
        The route of each row's key; None where all are the champion's.
    """

    def __init__(
        self, plane: DataPlane, table: RouteTable, matrix: Matrix, which: Which | None
    ) -> None:
        self._plane = plane
        self._champion = table.champion
        self._matrix = matrix
        self._split: SplitBatch | None = None
        if which is None or not which.any():
            self._calls = [plane.start_call(table.champion, matrix)]
            return
        self._split = SplitBatch(plane.serving.breakers, table, matrix, which)
        self._calls = [plane.start_call(p.route, p.matrix, p.limit_s) for p in self._split.parts]

    def done(self, within_s: float = 0.0) -> bool:
        """Return whether every model has answered, or does in time."""
        if len(self._calls) == 1:
            return self._calls[0].done(within_s)
        deadline = Deadline(within_s)
        return all(call.done(deadline.remaining_s) for call in self._calls)

    def answers(self, timeout_s: float) -> Answers:
        """Return the answers in the order of the rows; raises ModelUnavailable of the champion."""
        if self._split is None:
            (call,) = self._calls
            found = self._plane.wait_for_scores(self._champion, self._matrix, call, timeout_s)
            return Answers(*found)
        deadline = Deadline(timeout_s)
        calls = {id(p): call for p, call in zip(self._split.parts, self._calls, strict=True)}
        merging = self._split.merge_parts()
        try:
            part = next(merging)
            while True:
                try:
                    found = self._wait_for_part(part, calls.get(id(part)), deadline.remaining_s)
                except PenstockError as exc:
                    part = merging.throw(exc)
                else:
                    part = merging.send(found)
        except StopIteration as end:
            answers: Answers = end.value
            return answers

    def _wait_for_part(self, part: Part, call: PendingScores | None, timeout_s: float) -> Found:
        if call is None:
            return self._plane.ask_route(part.route, part.matrix)
        isolation_s = None if part.route is self._champion else CANARY_ISOLATION_S
        return self._plane.wait_for_scores(part.route, part.matrix, call, timeout_s, isolation_s)


class Halves(Generic[T]):
    """A search by halves: the whole is tried first, then the halves of each part that fails.

    Parameters
    ----------
    items
        What is searched; sliced, not copied.
    """

    def __init__(self, items: Sequence[T]) -> None:
        self._left = [items]

    def __iter__(self) -> Iterator[Sequence[T]]:
        while self._left:
            yield self._left.pop()

    def split_part(self, part: Sequence[T]) -> bool:
        """Have the halves of a part tried next; return False where it is a single item."""
        if len(part) < 2:
            return False
        middle = len(part) // 2
        self._left += [part[middle:], part[:middle]]
        return True


def isolate(
    infer: Callable[[Matrix], Matrix],
    matrix: Matrix,
    probe: Matrix,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> Found:
    """Score a batch whose merged call has failed.

    Parameters
    ----------
    infer
        Scores a matrix of one or more rows; raises ModelRejected where the model fails.
    matrix
        Shape (n, d), float32.
    probe
        A row that went through before, shape (1, d).
    timeout_s
        Time for all of it, seconds.

    Returns
    -------
    Scores, shape (n, k), NaN in bad rows; and (row, why) of the bad rows, ascending.

    Raises
    ------
    ModelUnavailable
        The model fails on good rows too, or the time is over.
    """
    deadline = Deadline(timeout_s, clock)
    parts: dict[int, Matrix] = {}
    suspects: list[int] = []
    halves = Halves(range(len(matrix)))
    for rows in halves:
        if deadline.expired:
            raise ModelUnavailable("isolating a failing record took too long")
        try:
            parts[rows[0]] = infer(matrix[rows[0] : rows[-1] + 1])
        except ModelRejected:
            if not halves.split_part(rows):
                suspects.append(rows[0])
    if parts:
        probe = matrix[min(parts)][None]
    errors: RowErrors = []
    for row in suspects:
        _wait_until_alive(infer, probe, deadline, pause)
        try:
            parts[row] = infer(matrix[row : row + 1])
        except ModelRejected as exc:
            errors.append((row, exc))
    if suspects:
        _wait_until_alive(infer, probe, deadline, pause)  # the last failure was the row's own too
    width = next(iter(parts.values())).shape[1] if parts else 1
    scores = np.full((len(matrix), width), np.nan, dtype=np.float32)
    for start, part in parts.items():
        scores[start : start + len(part)] = part
    return scores, errors


def _wait_until_alive(
    infer: Callable[[Matrix], Matrix],
    probe: Matrix,
    deadline: Deadline,
    pause: Callable[[float], Any],
) -> None:
    """Return once the model answers a good row."""
    while True:
        try:
            infer(probe)
            return
        except ModelRejected as exc:
            if deadline.expired:
                raise ModelUnavailable(f"no row goes through the model: {exc}") from exc
            pause(PROBE_PAUSE_S)


def refused(matrix: Matrix, error: RecordError) -> Found:
    """Return what says that no row has scores, for one reason."""
    return np.empty((len(matrix), 1), np.float32), [(row, error) for row in range(len(matrix))]
