"""The Faust app: agents that bring the records, timers that look at the jobs. No decisions here.

An agent never raises: Faust would start it anew every few seconds. What can be waited out is
waited out; everything else is told to the service, which ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from penstock_schemas.errors import RetryableError
from penstock_streaming.timing import Outage

from penstock_retrain_trigger.decisions import Decisions
from penstock_retrain_trigger.faust_app import ControlApp
from penstock_retrain_trigger.job_watch import JobWatch
from penstock_retrain_trigger.kafka_clients import faust_broker, faust_credentials
from penstock_retrain_trigger.settings import TriggerSettings

LOG = logging.getLogger(__name__)
LONGEST_WAIT_S: Final = 10.0
OnFatal = Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class Controlled:
    """One pipeline and what controls it."""

    pipeline: str
    topic: str
    decisions: Decisions
    watch: JobWatch


def group_id(pipelines: Sequence[str]) -> str:
    """Return the consumer group of an app for these pipelines."""
    return f"penstock-retrain-trigger-{'-'.join(sorted(pipelines))}"[:240]


def make_app(
    settings: TriggerSettings, controlled: Sequence[Controlled], on_fatal: OnFatal
) -> ControlApp:
    """Return the app with an agent and a timer for each pipeline.

    Parameters
    ----------
    on_fatal
        Told of an error that nothing here can mend.
    """
    kafka = settings.kafka
    app = ControlApp(
        group_id([c.pipeline for c in controlled]),
        broker=faust_broker(kafka),
        broker_credentials=faust_credentials(kafka),
        broker_client_id="penstock-retrain-trigger",
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 4,
        broker_rebalance_timeout=settings.session_timeout_s,
        broker_request_timeout=max(kafka.request_timeout_s, settings.session_timeout_s),
        broker_commit_interval=1.0,
        consumer_auto_offset_reset="earliest",
        processing_guarantee="at_least_once",
        store="memory://",
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
    )
    for one in controlled:
        _add(app, one, settings.watch_interval_s, on_fatal)
    return app


def _add(app: ControlApp, one: Controlled, interval_s: float, on_fatal: OnFatal) -> None:
    topic = app.topic(one.topic, key_serializer="raw", value_serializer="raw")

    async def take(stream: Any) -> None:
        async for event in stream.events():
            await guarded(partial(_take, one, event.message), on_fatal)

    async def look() -> None:
        async def once() -> None:
            await one.decisions.decide()
            await one.watch.look()

        await guarded(once, on_fatal)

    app.agent(topic, name=f"retrain-{one.pipeline}")(take)
    app.timer(interval_s)(look)


async def _take(one: Controlled, record: Any) -> None:
    await one.decisions.take(record.offset, record.value)
    await one.decisions.decide()


async def guarded(call: Callable[[], Awaitable[None]], on_fatal: OnFatal) -> None:
    """Make a call, again and again while what it needs is away; tell of what is fatal."""
    outage = Outage(LONGEST_WAIT_S)
    while True:
        try:
            return await call()
        except RetryableError as exc:
            if not outage.is_active:
                LOG.warning("have to wait: %s", exc)
            await asyncio.sleep(outage.begin(exc))
        except Exception as exc:  # nobody above an agent would tell of it
            return on_fatal(exc)
