from __future__ import annotations

import grpc
import pytest
from penstock_inference.triton import ScoringCall, ServedModel
from penstock_inference.triton_errors import ERRORS, translated
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

    call = ScoringCall(ServedModel("m", 1, 1), [Future()])
    assert not call.done()
    with pytest.raises(ModelUnavailable):
        call.scores(0.0)
