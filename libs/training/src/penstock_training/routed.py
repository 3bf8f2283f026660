"""A registered model as an entry of a routing state."""

from __future__ import annotations

from penstock_schemas.records import ModelVersion

from penstock_training.publish import served_name
from penstock_training.training_record import RegisteredModel


def routed(model: RegisteredModel, alias: str, weight: int, state: str) -> ModelVersion:
    """Return the entry of a registered model.

    Parameters
    ----------
    weight
        Share of the keys, percent.
    state
        serving, canary, shadow, draining or retired.
    """
    return ModelVersion(
        model_name=model.name,
        version=model.version,
        served_as=served_name(model.name, model.version),
        alias=alias,
        weight=weight,
        digest=model.digest,
        run_id=model.run_id,
        state=state,
        git_commit=model.git_commit,
    )
