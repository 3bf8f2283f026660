from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from harness.ingest import Online, Registry, avro, batch, event, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock_features.aggregates import AggregateTable
from penstock_ingest.pipeline import IngestPipeline
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.errors import FatalError, FeatureStoreUnavailable, RegistryUnavailable
from penstock_streaming.checkpoint import check_accounted
from penstock_streaming.handler import HandledBatch, MessageBatch

Tables = dict[int, AggregateTable]


@pytest.fixture
def tables(config: PipelineConfig) -> Tables:
    return {p: AggregateTable(config) for p in range(4)}


def handle(pipeline: IngestPipeline, messages: MessageBatch, tables: Tables) -> HandledBatch:
    handled = pipeline.finish(pipeline.prepare(messages), tables)
    check_accounted(messages, handled)
    return handled


def vectors(handled: HandledBatch) -> list[dict[str, Any]]:
    return [vector(value) for output in handled.outputs for value in output.values if value]


def test_feature_vector_says_what_the_event_said(pipeline: IngestPipeline, tables: Tables) -> None:
    handled = handle(
        pipeline,
        batch([avro(event(1)), avro(event(4))], keys=[b"x", b"y"], partitions=[2, 3]),
        tables,
    )
    (output,) = handled.outputs
    assert output.topic == "tiny.features.v1"
    assert list(output.keys) == [b"x", b"y"]
    assert list(output.partitions) == [2, 3]
    assert list(output.rows) == [0, 1]
    first, second = vectors(handled)
    assert first == {
        "event_id": "e1",
        "entity_key": "k1",
        "event_time": 1_700_000_060_000,
        "pipeline": "tiny",
        "origin": {"topic": "tiny.events.v1", "partition": 2, "offset": 100},
        "features": [pytest.approx(math.log(2)), 31.0, 0.0, 1.0, 0.0, 0.0, 11.0],
    }
    # another partition: the same entity has another history there
    assert second["origin"] == {"topic": "tiny.events.v1", "partition": 3, "offset": 101}
    assert second["features"][1] == 40.0
    assert second["features"][4:] == [0.0, 0.0, 11.0]


def test_aggregates_follow_the_entity(pipeline: IngestPipeline, tables: Tables) -> None:
    out = vectors(handle(pipeline, batch([avro(event(i)) for i in range(6)]), tables))
    assert [v["features"][5] for v in out] == [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    assert out[3]["features"][4] == pytest.approx(0.5 ** (180 / 3600))


def test_every_bad_row_ends_in_its_class(pipeline: IngestPipeline, tables: Tables) -> None:
    good = avro(event(1))
    values = [
        good,
        b"\x05junk",
        good[:-2],
        good + b"\x00",
        b"{not json",
        b"\x00\x00\x00\x00\x63" + good[5:],
        avro(event(1, amount=1e6)),
        avro(event(1, amount=math.nan)),
        avro(event(1, age=math.inf)),
        None,
        good,
        b"\x00" * 200_000,
        avro(event(1, event_id="x" * 60_000)),
        json.dumps({"event_id": "j"}).encode(),
        b"",
    ]
    keys = [b"key"] * len(values)
    keys[10] = None
    messages = batch(values, keys=keys)
    handled = handle(pipeline, messages, tables)
    assert {row: error.dead_letter_class for row, error in handled.dead_letters} == {
        1: "decode",
        2: "decode",
        3: "decode",
        4: "decode",
        5: "schema",
        6: "rule",
        7: "rule",
        8: "rule",
        10: "rule",
        11: "oversize",
        12: "oversize",
        13: "schema",
        14: "decode",
    }
    assert handled.skipped == {"tombstone": 1}
    assert [v["event_id"] for v in vectors(handled)] == ["e1"]
    errors = dict(handled.dead_letters)
    assert (errors[6].field, errors[6].expected, errors[6].got) == (
        "amount",
        "at most 1000",
        "1000000.0",
    )
    # what was refused is in nobody's history
    assert tables[0].latest_aggregates(np.array([0]))[0, 0] == pytest.approx(1.0)


def test_infinite_imputed_value_breaks_a_rule_but_nan_without_rule_is_imputed(
    make_pipeline: Callable[..., IngestPipeline], config: PipelineConfig, tables: Tables
) -> None:
    pipeline = make_pipeline(config.model_copy(update={"rules": ()}))
    out = vectors(handle(pipeline, batch([avro(event(1, age=math.nan))]), tables))
    assert out[0]["features"][1] == 40.0


def test_key_is_the_entity_where_none_is_required_and_none_came(
    make_pipeline: Callable[..., IngestPipeline], config: PipelineConfig, tables: Tables
) -> None:
    loose = config.event.model_copy(update={"key_required": False})
    pipeline = make_pipeline(config.model_copy(update={"event": loose}))
    values = [avro(event(1)), avro(event(2))]
    handled = handle(pipeline, batch(values, keys=[None, b"own"]), tables)
    assert list(handled.outputs[0].keys) == [b"k1", b"own"]


def test_json_is_refused_where_only_avro_is_accepted(
    make_pipeline: Callable[..., IngestPipeline], config: PipelineConfig, tables: Tables
) -> None:
    only = config.event.model_copy(update={"formats": ("avro",)})
    pipeline = make_pipeline(config.model_copy(update={"event": only}))
    handled = handle(pipeline, batch([json.dumps(event(1)).encode()]), tables)
    assert [e.dead_letter_class for _, e in handled.dead_letters] == ["decode"]


def test_json_and_avro_give_the_same_vector(
    pipeline: IngestPipeline, config: PipelineConfig
) -> None:
    events = [event(i) for i in range(12)]
    as_avro = handle(pipeline, batch([avro(e) for e in events]), {0: AggregateTable(config)})
    as_json = handle(
        pipeline, batch([json.dumps(e).encode() for e in events]), {0: AggregateTable(config)}
    )
    assert as_avro.outputs[0].values == as_json.outputs[0].values
    mixed = [json.dumps(e).encode() if i % 2 else avro(e) for i, e in enumerate(events)]
    assert (
        handle(pipeline, batch(mixed), {0: AggregateTable(config)}).outputs[0].values
        == as_avro.outputs[0].values
    )


def test_value_changed_in_the_online_store_is_in_the_next_vector(
    pipeline: IngestPipeline, tables: Tables, online: Online
) -> None:
    first = vectors(handle(pipeline, batch([avro(event(1))]), tables))
    online.values["k1"] = 99.0
    second = vectors(handle(pipeline, batch([avro(event(1))]), tables))
    assert (first[0]["features"][-1], second[0]["features"][-1]) == (11.0, 99.0)


def test_batch_of_bad_rows_only(pipeline: IngestPipeline, tables: Tables) -> None:
    handled = handle(pipeline, batch([b"", None, b"\x00"]), tables)
    assert handled.outputs == []
    assert handled.terminal == 0


def test_pipeline_without_aggregates_needs_no_tables(
    make_pipeline: Callable[..., IngestPipeline], config: PipelineConfig
) -> None:
    plain = config.model_copy(
        update={"features": tuple(f for f in config.features if f.aggregate is None)}
    )
    out = vectors(handle(make_pipeline(plain), batch([avro(event(1))]), {}))
    assert len(out[0]["features"]) == 5


def test_unassigned_partition_is_fatal(pipeline: IngestPipeline, config: PipelineConfig) -> None:
    prepared = pipeline.prepare(batch([avro(event(1))], partitions=[7]))
    with pytest.raises(FatalError, match="partition 7"):
        pipeline.finish(prepared, {0: AggregateTable(config)})


def test_outage_of_the_online_store_leaves_the_state_untouched(
    pipeline: IngestPipeline, tables: Tables, online: Online
) -> None:
    messages = batch([avro(event(i)) for i in range(5)])
    online.is_away = True
    with pytest.raises(FeatureStoreUnavailable):
        pipeline.prepare(messages)
    assert len(tables[0]) == 0
    online.is_away = False
    assert len(vectors(handle(pipeline, messages, tables))) == 5


def test_outage_of_the_registry_leaves_the_state_untouched(
    pipeline: IngestPipeline, tables: Tables, registry: Registry
) -> None:
    registry.is_away = True
    with pytest.raises(RegistryUnavailable):
        pipeline.prepare(batch([avro(event(1))]))
    assert len(tables[0]) == 0


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.one_of(
            st.integers(0, 30).map(lambda i: avro(event(i))),
            st.integers(0, 30).map(lambda i: json.dumps(event(i)).encode()),
            st.integers(0, 30).map(lambda i: avro(event(i, amount=-1.0))),
            st.binary(max_size=12),
            st.none(),
        ),
        min_size=1,
        max_size=25,
    ),
    cut=st.integers(1, 25),
)
def test_any_batch_is_accounted_for_and_its_split_does_not_matter(
    pipeline: IngestPipeline, config: PipelineConfig, rows: list[bytes | None], cut: int
) -> None:
    whole = handle(pipeline, batch(rows), {0: AggregateTable(config)})
    tables = {0: AggregateTable(config)}
    values: list[bytes | None] = []
    for at in range(0, len(rows), cut):
        piece = batch(rows[at : at + cut], first_offset=100 + at)
        values += [v for o in handle(pipeline, piece, tables).outputs for v in o.values]
    assert values == [v for o in whole.outputs for v in o.values]
