"""Events that are too old for an answer: the model is not asked about them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock_inference.answers import Answers
from penstock_inference.pipeline import AnsweredBy
from penstock_inference.routing import Which

Mask = npt.NDArray[np.bool_]


def expired_rows(event_time: pa.Array, now_ms: int, deadline_ms: int | None) -> Mask | None:
    """Return which events are older than the deadline; None where none is.

    Parameters
    ----------
    event_time
        n timestamps in milliseconds.
    now_ms
        Milliseconds since the epoch, UTC.
    deadline_ms
        Largest age, milliseconds; None switches it off.

    Examples
    --------
    >>> times = pa.array([1_000, 1_900, 5_000], pa.timestamp("ms"))
    >>> expired_rows(times, 2_000, 500).tolist()
    [True, False, False]
    >>> expired_rows(times, 2_000, 1_000) is None
    True
    """
    if deadline_ms is None:
        return None
    # Compared with a bound, not as an age: an age may not fit into 64 bits.
    expired: Mask = event_time.cast(pa.int64()).to_numpy() < now_ms - deadline_ms
    return expired if expired.any() else None


def with_expired(answers: Answers | None, expired: Mask, which: Which, by: AnsweredBy) -> Answers:
    """Return the answers of the rows that were asked for, put back among those that were not.

    Parameters
    ----------
    answers
        Of the rows that have not expired, in order; None where all have.
    expired
        Shape (n,).
    which
        Shape (n,): per row the index of its key's route in the routes of ``by``.
    """
    asked = np.flatnonzero(~expired)
    width = 1 if answers is None else answers.scores.shape[1]
    scores = np.full((len(expired), width), np.nan, dtype=np.float32)
    answered = which.copy()
    if answers is None:
        return Answers(scores, [], AnsweredBy(by.routes, answered))
    scores[asked] = answers.scores
    answered[asked] = 0 if answers.by.which is None else answers.by.which
    errors = [(int(asked[row]), error) for row, error in answers.errors]
    return Answers(scores, errors, AnsweredBy(by.routes, answered), answers.fallbacks)
