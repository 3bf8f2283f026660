from __future__ import annotations

import threading
from typing import Any

import grpc
import numpy as np
import pytest
from penstock_inference.model_server import INPUT, DeadlineHit, PendingScores, ServedModel
from penstock_inference.settings import TritonSettings
from penstock_inference.triton import ERRORS, MAX_CALLS, TritonServer, translated
from penstock_schemas.errors import (
    FatalError,
    ModelRejected,
    ModelUnavailable,
    PenstockError,
    RetryableError,
    ShapeMismatch,
)
from tritonclient.utils import InferenceServerException

RETRIED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_has_its_meaning(code: grpc.StatusCode) -> None:
    assert code in ERRORS, "a new status code needs a decision"
    error = translated(InferenceServerException("why", status=str(code)), "doing")
    assert type(error) is ERRORS[code]
    assert isinstance(error, PenstockError)
    assert isinstance(error, RetryableError) == (code in RETRIED)
    assert "doing: why" in str(error)


def test_outage_is_never_a_dead_letter() -> None:
    for code in RETRIED:
        assert issubclass(ERRORS[code], ModelUnavailable)
    assert ERRORS[grpc.StatusCode.INVALID_ARGUMENT] is ShapeMismatch
    assert ERRORS[grpc.StatusCode.INTERNAL] is ModelRejected


@pytest.mark.parametrize("status", [None, "StatusCode.NEW", ""])
def test_unknown_status_is_fatal(status: str | None) -> None:
    assert type(translated(InferenceServerException("?", status=status), "x")) is FatalError


def test_call_that_does_not_come_back_is_an_outage() -> None:
    from concurrent.futures import Future

    call = PendingScores(ServedModel("m", 1, 1), [Future()])
    assert not call.done()
    with pytest.raises(ModelUnavailable):
        call.scores(0.0)


class Answer:
    """What the client returns; ``array`` may be an error to raise."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def as_numpy(self, name: str) -> Any:
        if isinstance(self._array, Exception):
            raise self._array
        return self._array


@pytest.mark.parametrize(
    "array",
    [
        None,
        np.zeros((2, 1), np.float32),
        np.zeros(3, np.float32),
        np.array([[b"x"]] * 3, dtype=object),
        ValueError("cannot reshape"),
    ],
    ids=["nothing", "too few rows", "flat", "strings", "broken"],
)
def test_answer_that_is_no_scores_is_an_error_of_ours(
    array: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it any other exception, a canary's answer could end the router."""
    server = TritonServer(TritonSettings())
    monkeypatch.setattr(server._client, "infer", lambda *_, **__: Answer(array))
    with pytest.raises(FatalError, match="inference by m"):
        server.infer(ServedModel("m", 2, 8), {INPUT: np.zeros((3, 2), np.float32)}, 1.0)
    server.close()


def test_call_that_was_never_made_does_not_speak_against_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every thread waits for another call; a deadline of the model's own opens its circuit."""
    server, go = TritonServer(TritonSettings()), threading.Event()
    scores = np.zeros((1, 1), np.float32)

    def infer(*_: object, **__: object) -> Answer:
        assert go.wait(10)
        return Answer(scores)

    monkeypatch.setattr(server._client, "infer", infer)
    model, row = ServedModel("m", 1, 1), np.zeros((1, 1), np.float32)
    busy = [server.start_inference(model, {INPUT: row}, 10.0) for _ in range(MAX_CALLS)]
    late = server.start_inference(model, {INPUT: row}, 0.0)
    assert not late.done()
    go.set()
    with pytest.raises(ModelUnavailable, match="every thread was waiting") as caught:
        late.scores(10.0)
    assert not isinstance(caught.value, DeadlineHit)
    assert all(len(call.scores(10.0)) == 1 for call in busy)
    server.close()
