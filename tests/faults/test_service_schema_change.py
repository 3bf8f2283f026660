"""A producer changes its schema: what readers can follow passes, a breaking change does not."""

from __future__ import annotations

import json
import urllib.error
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from harness.clients import avro_encoder, register_schema
from harness.fault_pipeline import FaultWindow, ServedPipeline, now_ms
from harness.records import RawMessage, send
from penstock_registry.schema_registry import RegistryClient, RegistrySettings

MakePipeline = Callable[..., ServedPipeline]
pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

CONFLICT = 409
ROWS = 30
Fields = list[dict[str, Any]]
Change = Callable[[Fields], Fields]


def typed(fields: Fields, name: str, kind: str) -> Fields:
    return [{**f, "type": kind} if f["name"] == name else f for f in fields]


def without(fields: Fields, name: str) -> Fields:
    return [f for f in fields if f["name"] != name]


ALLOWED: dict[str, Change] = {
    "optional field more": lambda fields: [
        *fields,
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
FOLLOWED: dict[str, Change] = {
    "required field more": lambda fields: [*fields, {"name": "site", "type": "string"}],
    "narrower number": lambda fields: typed(fields, "pressure", "float"),
}
"""We can read what these write; the registry asks whether they can read what was written."""
REFUSED: dict[str, Change] = {
    "text for a number": lambda fields: typed(fields, "pressure", "string"),
}
BREAKING: dict[str, Change] = {
    # Other readers could do without it, so the registry lets it pass; our features need it.
    "required field gone": lambda fields: without(fields, "pressure"),
    **REFUSED,
}
VALUES: dict[str, Any] = {"note": None, "site": "north"}


def changed(pipeline: ServedPipeline, change: Change) -> str:
    event = json.loads(pipeline.loaded.event_schema)
    return json.dumps({**event, "fields": change(event["fields"])})


def test_schema_changes_pass_are_refused_or_end_as_dead_letters(
    make_pipeline: MakePipeline, seed: int
) -> None:
    pipeline = make_pipeline()
    subject = f"{pipeline.topics.events}-value"
    # As `penstock topics apply` sets it.
    client = RegistryClient(RegistrySettings(url=pipeline.addresses.registry))
    client.set_compatibility(subject, "BACKWARD")
    pipeline.start_ingest()
    router = pipeline.start_router()
    with FaultWindow(pipeline, "F41", seed) as window:
        for name, change in ALLOWED.items():
            publish(window, pipeline, change, subject, "predicted")
            window.note(f"{name}: registered and passed")
        for name, change in {**FOLLOWED, **REFUSED}.items():
            with pytest.raises(urllib.error.HTTPError) as refused:
                register_schema(pipeline.addresses.registry, subject, changed(pipeline, change))
            assert refused.value.code == CONFLICT, name
        for group, becomes in ((FOLLOWED, "predicted"), (BREAKING, "schema")):
            for name, change in group.items():
                # Forced past the check: the id is of a subject that nobody guards.
                publish(window, pipeline, change, f"forced-{uuid.uuid4().hex[:8]}", becomes)
                window.note(f"{name}: forced, {becomes}")
        report = window.judge()
    assert report.dead_letters == {"schema": ROWS * len(BREAKING)}
    assert router.stop() == 0


def publish(
    window: FaultWindow, pipeline: ServedPipeline, change: Change, subject: str, becomes: str
) -> None:
    """Write events by a changed schema."""
    text, published = changed(pipeline, change), window.published
    encode = avro_encoder(text, register_schema(pipeline.addresses.registry, subject, text))
    names = {field["name"] for field in json.loads(text)["fields"]}
    for row, _ in pipeline.rows(ROWS, window.seed):
        full = {**row, **VALUES}
        if becomes == "schema" and "pressure" in names:
            full["pressure"] = "high"
        value = encode({name: full[name] for name in names})
        key = str(row["pump_id"]).encode()
        message = RawMessage(value, key=key, timestamp_ms=now_ms())
        partition = published.events % 2
        offset = send(pipeline.addresses.kafka, pipeline.topics.events, partition, message)
        published.events += 1
        if becomes != "predicted":
            published.bad[partition, offset] = becomes
