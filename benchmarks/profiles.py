"""The online features that some rows read: what a bank knows about its 100,000 entities."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import workloads
from penstock_features.online import apply_definitions, load_profiles
from penstock_rows import Feast

DEFINITIONS: Final = """\
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.STRING)
profile = FeatureView(
    name="profile",
    entities=[entity],
    ttl=timedelta(days={ttl_days}),
    schema=[Field(name=name, dtype=Float64) for name in {names}],
    source=FileSource(
        name="profile_file", path="data/profile.parquet", timestamp_field="event_timestamp"
    ),
)
"""


def definitions(feast: Feast) -> str:
    """Return the text of features.py; values that can expire are read for every batch."""
    return DEFINITIONS.format(ttl_days=int(feast == "read"), names=workloads.PROFILE)


def make_store(folder: Path, store: Path) -> None:
    """Apply a pipeline's definitions to a new Feast repository, and fill in every entity.

    Parameters
    ----------
    folder
        The pipeline's, with features.py.
    store
        Of the repository.
    """
    import pandas as pd

    apply_definitions(folder, store)
    entities = workloads.entity_ids()
    values = np.random.default_rng(0).normal(size=(len(entities), len(workloads.PROFILE)))
    frame = pd.DataFrame(values, columns=list(workloads.PROFILE))
    load_profiles(store, "profile", frame.assign(entity_id=entities))
