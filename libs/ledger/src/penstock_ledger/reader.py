"""Copies what a foreign Kafka client sees into a store."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from penstock_schemas.codec import decode_one
from penstock_schemas.errors import ConfigError, RecordError, SchemaError
from penstock_schemas.records import RoutingState
from penstock_schemas.schema_files import schema_text as shipped_schema

from penstock_ledger.decoding import RecordDecoder, SchemaText
from penstock_ledger.log_client import CALL_TIMEOUT_S, LogClient
from penstock_ledger.records import ROLES, LedgerTopics, Service
from penstock_ledger.reigns import Tolerance
from penstock_ledger.store import Store
from penstock_ledger.topic_range import LedgerUnreachable, Offsets, TopicRange

SERVICES: Final[tuple[Service, ...]] = ("inference", "ingest")
LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Where and how much to read.

    Parameters
    ----------
    registry_url
        Base URL of the Confluent-compatible schema API.
    start
        First offset per topic and partition; the log's beginning where none is given.
    timeout_s
        Time for the whole read.
    client
        More settings of the Kafka client, such as those of TLS and SASL.
    schema_text
        Asked instead of ``registry_url``, for a registry that wants credentials.
    tolerance
        How far clocks and routers may be apart.
    settle_s
        Longest wait for transactions that are open when the read begins, seconds: longer than the
        services' own time-out, after which the broker ends those of a killed worker.
    """

    bootstrap_servers: str
    registry_url: str
    start: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    timeout_s: float = 120.0
    client: Mapping[str, Any] = field(default_factory=dict)
    schema_text: SchemaText | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    settle_s: float = 15.0

    @property
    def schemas(self) -> SchemaText:
        """The registry."""
        return self.schema_text or schema_reader(self.registry_url)


def schema_reader(registry_url: str) -> SchemaText:
    """Return a function from registry id to schema text, as `RecordDecoder` wants it."""

    def schema_text(schema_id: int) -> str:
        url = f"{registry_url.rstrip('/')}/schemas/ids/{schema_id}"
        if not url.startswith(("http://", "https://")):
            raise LedgerUnreachable(f"not an http address: {registry_url}")
        try:
            with urllib.request.urlopen(url, timeout=CALL_TIMEOUT_S) as answer:  # noqa: S310
                return str(json.load(answer)["schema"])
        except urllib.error.HTTPError as exc:
            raise LookupError(f"registry answers {exc.code}") from exc
        except OSError as exc:
            raise LedgerUnreachable(f"registry {registry_url}: {exc}") from exc

    return schema_text


def read_pipeline(store: Store, options: ReadOptions) -> None:
    """Read the pipeline's topics in both views, and the committed offsets, into ``store``.

    A log that still grows can be read: ends are taken once per topic, between two looks at the
    committed offsets, and downstream topics are read before those they refer to.

    Raises
    ------
    LedgerUnreachable
        If a broker or the registry does not answer, or the time is up.
    ConfigError
        If there is no such pipeline.
    """
    deadline = time.monotonic() + options.timeout_s
    client = LogClient(options.bootstrap_servers, options.client)
    decoder = RecordDecoder(options.schemas)
    topics = store.topics
    if not client.partitions(topics.events):
        where = options.bootstrap_servers
        raise ConfigError(f"no topic {topics.events} on {where}: 'penstock topics apply' makes it")
    before = {service: _committed(client, topics, service, False) for service in SERVICES}
    _settle(client, topics, min(deadline, time.monotonic() + options.settle_s))
    for role in reversed(ROLES):
        name = topics.name(role)
        high = client.offsets(name, "last", "read_uncommitted")
        stable = client.offsets(name, "last", "read_committed")
        first = client.offsets(name, "first", "read_uncommitted")
        start = {p: max(first[p], options.start.get(name, {}).get(p, 0)) for p in high}
        for p in high:
            store.add_span(role, p, start[p], high[p], stable[p])
        read = TopicRange(options.bootstrap_servers, name, start, options.client)
        for batch in read.columns("read_uncommitted", high, deadline):
            store.add_uncommitted(role, batch)
        for batch in read.columns("read_committed", stable, deadline):
            store.add_committed_records(role, batch, decoder)
    for service in SERVICES:
        after = _committed(client, topics, service, True)
        store.add_committed(service, before[service], after)
    # Last, so that no prediction is of a later revision.
    store.add_routing(read_routing(client, topics, options, deadline), options.tolerance)


def _settle(client: LogClient, topics: LedgerTopics, deadline: float) -> None:
    """Wait until all that is in the output topics by now is committed or aborted.

    An open transaction hides what others have committed behind it, as if it were lost.
    """
    for role in ROLES:
        if role == "events":
            continue
        name = topics.name(role)
        ends = client.offsets(name, "last", "read_uncommitted")
        while time.monotonic() < deadline:
            stable = client.offsets(name, "last", "read_committed")
            if all(stable.get(p, 0) >= end for p, end in ends.items()):
                break
            time.sleep(LOOK_S)


def read_routing(
    client: LogClient, topics: LedgerTopics, options: ReadOptions, deadline: float
) -> list[tuple[int, RoutingState]]:
    """Return the routing states of the pipeline that are in the log, with their offsets.

    Raises
    ------
    LedgerUnreachable
        As `read_pipeline`.
    """
    if not topics.models:
        return []
    end = client.offsets(topics.models, "last", "read_committed")
    start = client.offsets(topics.models, "first", "read_uncommitted")
    read = TopicRange(options.bootstrap_servers, topics.models, start, options.client)
    found = []
    for batch in read.columns("read_committed", end, deadline):
        for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
            if value is not None and key == topics.pipeline.encode():
                state = _routing_state(value, options.schemas)
                if state is not None:
                    found.append((offset, state))
    return found


def _routing_state(value: bytes, schemas: SchemaText) -> RoutingState | None:
    """Return a routing state; None for what no router can read either: it passes it over."""

    def resolve(schema_id: int) -> str:
        try:
            return schemas(schema_id)
        except LookupError as exc:
            raise SchemaError(str(exc), schema_id=schema_id) from exc

    try:
        return RoutingState.from_dict(
            decode_one(value, resolve, shipped_schema("routing_state.avsc"))
        )
    except RecordError:
        return None


def _committed(client: LogClient, topics: LedgerTopics, service: Service, stable: bool) -> Offsets:
    source = topics.name(topics.input_role(service))
    return client.committed(topics.group(service), source, stable=stable)
