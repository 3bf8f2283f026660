from __future__ import annotations

from pathlib import Path

import pytest
from penstock_schemas.errors import BrokerUnavailable, ConfigError
from penstock_service.fail_points import FailPoints
from penstock_training_job import __main__ as module
from penstock_training_job.job import Addresses, open_job
from penstock_training_job.request import Withdrawn

ARGUMENTS = (
    "job --request-id r1 --pipeline-dir p --kafka k:1 --registry http://r --mlflow http://m "
    "--triton-grpc t:1 --models-dir models"
)


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Return the list of what the next runs do."""
    found: list[Exception | None] = []

    def run(_: object) -> None:
        outcome = found.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(module, "open_job", lambda *_: None)
    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr("sys.argv", ARGUMENTS.split())
    return found


def test_outage_is_waited_out_by_starting_again(outcomes: list[Exception | None]) -> None:
    outcomes[:] = [BrokerUnavailable("away", retry_after_s=0.0), None]
    assert module.main() == 0
    assert outcomes == []


def test_long_outage_is_worth_another_job(
    outcomes: list[Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTAGE_S", 0.0)
    outcomes[:] = [BrokerUnavailable("away", retry_after_s=0.0), None]
    assert module.main() == 3
    assert outcomes == [None]


@pytest.mark.parametrize("error", [ConfigError("wrong"), Withdrawn("cancelled: by ann")])
def test_what_no_repetition_cures_fails_with_its_reason_last(
    outcomes: list[Exception | None], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes[:] = [error]
    assert module.main() == 1
    assert caplog.messages[-1] == str(error)


def test_unknown_error_is_not_swallowed(outcomes: list[Exception | None]) -> None:
    outcomes[:] = [KeyError("x")]
    with pytest.raises(KeyError):
        module.main()


def test_request_id_is_checked_before_it_gets_anywhere() -> None:
    places = Addresses("k:1", "http://r", "http://m", "t:1", Path("models"))
    with pytest.raises(ConfigError, match="--request-id"):
        open_job("a' or 'b", Path("p"), places, FailPoints())
