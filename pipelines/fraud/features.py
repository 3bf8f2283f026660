"""Feast definitions of the fraud pipeline: applied to the online store at first start.

Paths of the sources are relative to the Feast repository's folder.
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64

account = Entity(
    name="account",
    join_keys=["account_id"],
    value_type=ValueType.STRING,
    description="A card account.",
)

account_profile = FeatureView(
    name="account_profile",
    description="What the bank knows about the account; loaded from its master data.",
    entities=[account],
    ttl=timedelta(days=0),  # 0: a profile does not expire
    schema=[
        Field(name="credit_limit", dtype=Float64),
        Field(name="account_age_days", dtype=Float64),
        Field(name="home_risk", dtype=Float64),
        Field(name="typical_amount", dtype=Float64),
        Field(name="chargebacks", dtype=Float64),
    ],
    source=FileSource(
        name="account_profile_file",
        path="data/account_profile.parquet",
        timestamp_field="event_timestamp",
    ),
    online=True,
)

account_activity = FeatureView(
    name="account_activity",
    description="The account's latest aggregates, written back by ingest in batches.",
    entities=[account],
    ttl=timedelta(days=0),
    schema=[
        Field(name="count_24h", dtype=Float64),
        Field(name="amount_mean_7d", dtype=Float64),
        Field(name="amount_std_7d", dtype=Float64),
        Field(name="state", dtype=Array(Float64)),
    ],
    source=FileSource(
        name="account_activity_file",
        path="data/account_activity.parquet",
        timestamp_field="event_timestamp",
    ),
    online=True,
)
