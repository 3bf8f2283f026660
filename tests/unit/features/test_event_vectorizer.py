"""The stage alone, as a process without Kafka would call it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from harness.ingest import EVENT_SCHEMA, PIPELINE, Online, Registry, avro, event
from penstock_features.aggregates import AggregateTable
from penstock_features.event_vectorizer import EventVectorizer
from penstock_pipelines.model import PipelineConfig
from penstock_schemas.codec import ColumnarDecoder
from penstock_schemas.errors import FatalError, FeatureStoreUnavailable

CONFIG = PipelineConfig.model_validate(PIPELINE)


@pytest.fixture
def online() -> Online:
    return Online()


@pytest.fixture
def vectorizer(online: Online) -> EventVectorizer:
    decoder = ColumnarDecoder(EVENT_SCHEMA, Registry(), json_allowed=True, max_bytes=100_000)
    return EventVectorizer(CONFIG, decoder, online)


def test_messages_give_vectors_dead_letters_and_changed_state(vectorizer: EventVectorizer) -> None:
    values = [avro(event(1)), b"junk", json.dumps(event(4)).encode(), None, avro(event(2))]
    prepared = vectorizer.prepare(values)
    tables = {0: AggregateTable(CONFIG)}
    matrix = vectorizer.vectorize(prepared, np.zeros(3, np.int32), tables)
    assert prepared.rows.tolist() == [0, 2, 4]
    assert prepared.keys.to_pylist() == ["k1", "k1", "k2"]
    assert matrix.shape == (3, len(CONFIG.feature_names))
    assert [(row, e.dead_letter_class) for row, e in prepared.dead_letters] == [(1, "decode")]
    assert prepared.tombstones == 1
    assert tables[0].keys(tables[0].changed_rows()) == ["k1", "k2"]


def test_state_given_from_outside_gives_the_vector_of_the_stream(
    vectorizer: EventVectorizer,
) -> None:
    table = AggregateTable(CONFIG)
    nowhere = np.zeros(1, np.int32)
    for i in (1, 4):
        vectorizer.vectorize(vectorizer.prepare([avro(event(i))]), nowhere, {0: table})
    state = table.vectors(np.array([0]))
    peeked = vectorizer.vectorize_from(vectorizer.prepare([avro(event(7))]), [state[0]])
    again = vectorizer.vectorize_from(vectorizer.prepare([avro(event(7))]), [state[0]])
    streamed = vectorizer.vectorize(vectorizer.prepare([avro(event(7))]), nowhere, {0: table})
    assert peeked.tolist() == again.tolist() == streamed.tolist()


def test_unknown_entity_and_state_of_another_layout_are_no_history(
    vectorizer: EventVectorizer,
) -> None:
    first = vectorizer.vectorize_from(vectorizer.prepare([avro(event(1))]), [None])
    other = vectorizer.vectorize_from(vectorizer.prepare([avro(event(1))]), [np.ones(3)])
    fresh = {0: AggregateTable(CONFIG)}
    streamed = vectorizer.vectorize(
        vectorizer.prepare([avro(event(1))]), np.zeros(1, np.int32), fresh
    )
    assert first.tolist() == other.tolist() == streamed.tolist()


def test_missing_aggregates_are_fatal(vectorizer: EventVectorizer) -> None:
    prepared = vectorizer.prepare([avro(event(1))])
    with pytest.raises(FatalError, match="partition 0"):
        vectorizer.vectorize(prepared, np.zeros(1, np.int32), {})


def test_events_that_are_no_records_need_no_key(vectorizer: EventVectorizer) -> None:
    assert len(vectorizer.prepare([avro(event(1))]).rows) == 1
    refused = vectorizer.prepare([avro(event(1))], [None]).dead_letters
    assert [e.dead_letter_class for _, e in refused] == ["rule"]


def test_outage_is_passed_on(vectorizer: EventVectorizer, online: Online) -> None:
    online.is_away = True
    with pytest.raises(FeatureStoreUnavailable):
        vectorizer.prepare([avro(event(1))])
