"""A rollout that a retraining owns is its own to decide."""

from __future__ import annotations

import pytest
from penstock_cli.rollout import refuse_owned
from penstock_schemas.errors import Refused
from penstock_schemas.records import ModelVersion, RetrainEvent, RoutingState
from penstock_schemas.retrain_requests import ENDS_OR_SUPPRESSED, requests_of


def version(number: str, alias: str = "", weight: int = 0, state: str = "serving") -> ModelVersion:
    return ModelVersion("m", number, f"m__{number}", alias, weight, "sha256:0", "run", state)


def state(*versions: ModelVersion, by: str = "cli:ann") -> RoutingState:
    return RoutingState("m", 7, 0, by, versions)


ONE = version("1", "champion", 100)
ASKED = RetrainEvent.request("r1", "m", 0, "drift")
RUNS = [ASKED, ASKED.followed_by("accepted", 1), ASKED.followed_by("started", 2)]
CANARY = (version("1", "champion", 90), version("2", "challenger", 10, "canary"))


def test_a_job_with_its_canary_out_owns_the_rollout() -> None:
    now = state(*CANARY, by="retrain-job/r1")
    with pytest.raises(Refused, match="penstock retrain cancel m r1 --yes"):
        refuse_owned(now, requests_of(RUNS, ENDS_OR_SUPPRESSED))


@pytest.mark.parametrize(
    ("now", "events"),
    [
        (state(*CANARY, by="cli:ann"), RUNS),
        (state(ONE, by="retrain-job/r1"), RUNS),
        (state(*CANARY, by="retrain-job/r0"), RUNS),
        (state(*CANARY, by="retrain-job/r1"), [*RUNS, ASKED.followed_by("failed", 3)]),
    ],
)
def test_a_canary_of_nobody_or_of_a_dead_job_may_be_changed(
    now: RoutingState, events: list[RetrainEvent]
) -> None:
    refuse_owned(now, requests_of(events, ENDS_OR_SUPPRESSED))
