"""The Faust app: agents that read the retrain topics, timers that look at the jobs.

No decisions are made here. An agent never raises, since Faust would start it anew every few
seconds: a retryable error is retried, any other ends the service. Faust reads committed records
only and leaves nothing on disk.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import faust
from faust.transport.drivers import aiokafka as driver
from penstock_schemas.errors import RetryableError
from penstock_streaming.settings import KafkaSettings, OncePerWindow
from penstock_streaming.timing import Outage

from penstock_retrain_trigger.jobs import JobWatch
from penstock_retrain_trigger.settings import TriggerSettings

LOG = logging.getLogger("penstock_retrain_trigger.faust_app")
"""Not this module's own, under which Faust logs for the classes below."""
LONGEST_WAIT_S: Final = 10.0
OnFatal = Callable[[BaseException], None]
LIBRARIES: Final = ("faust", "mode", "aiokafka", "penstock_retrain_trigger.faust_app")
"""Loggers that log each step of each of their parts; the last one is Faust in the classes below."""


def group_id(pipelines: Sequence[str]) -> str:
    """Return the consumer group of an app for these pipelines."""
    return f"penstock-retrain-trigger-{'-'.join(sorted(pipelines))}"[:240]


def make_app(
    settings: TriggerSettings, watches: Sequence[JobWatch], on_fatal: OnFatal
) -> ControlApp:
    """Return the app with an agent and a timer for each pipeline.

    Parameters
    ----------
    on_fatal
        Called with an error that is not retryable.
    """
    kafka = settings.kafka
    app = ControlApp(
        group_id([watch.decisions.pipeline for watch in watches]),
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
    for watch in watches:
        _add_agent(app, watch, settings.watch_interval_s, on_fatal)
    return app


def _add_agent(app: ControlApp, watch: JobWatch, interval_s: float, on_fatal: OnFatal) -> None:
    decisions = watch.decisions
    topic = app.topic(decisions.topic, key_serializer="raw", value_serializer="raw")

    async def follow(stream: Any) -> None:
        async for event in stream.events():
            await guarded(partial(decide_about, event.message), on_fatal)

    async def decide_about(record: Any) -> None:
        await decisions.fold_record(record.offset, record.value)
        await decisions.decide()

    async def look_at_jobs() -> None:
        await decisions.decide()
        await watch.check_jobs()

    async def look() -> None:
        await guarded(look_at_jobs, on_fatal)

    app.agent(topic, name=f"retrain-{decisions.pipeline}")(follow)
    app.timer(interval_s)(look)


async def guarded(call: Callable[[], Awaitable[None]], on_fatal: OnFatal) -> None:
    """Make a call, again after each retryable error; hand any other to ``on_fatal``."""
    outage = Outage(LONGEST_WAIT_S)
    while True:
        try:
            return await call()
        except RetryableError as exc:
            if not outage.is_active:
                LOG.warning("have to wait: %s", exc)
            await asyncio.sleep(outage.begin(exc))
        except Exception as exc:  # Faust would only start the agent anew
            return on_fatal(exc)


class _ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc] # Faust has no types
    """Faust reads what is committed only under its own exactly_once; we want nothing else of it."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        self.consumer.in_transaction = True
        try:
            return super()._create_worker_consumer(transport)
        finally:
            self.consumer.in_transaction = False


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> Any:
        return _ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(driver.Transport):  # type: ignore[misc]
    Consumer = _Consumer


class ControlApp(faust.App):  # type: ignore[misc]
    """A Faust app that reads committed records and leaves nothing on disk."""

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Make no data directory: there are no tables."""

    def assigned_topics(self) -> set[str]:
        """Return the topics that are read now; none during a rebalance."""
        if self.rebalancing or not self.started:
            return set()
        return {partition.topic for partition in self.consumer.assignment()}


def faust_broker(kafka: KafkaSettings) -> str:
    """Return the brokers as Faust names them."""
    return "kafka://" + kafka.bootstrap_servers.replace(",", ";").replace(" ", "")


def faust_credentials(kafka: KafkaSettings) -> Any:
    """Return Faust's credentials, None for a plain connection."""
    context = ssl_context(kafka)
    if kafka.security_protocol.startswith("sasl"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=password,
            mechanism=kafka.sasl_mechanism or "PLAIN",
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def ssl_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """Return the TLS context, None without TLS."""
    if "ssl" not in kafka.security_protocol.split("_"):
        return None
    context = ssl.create_default_context(cafile=kafka.ssl_ca_file)
    if kafka.ssl_certificate_file is not None:
        password = kafka.ssl_key_password.get_secret_value() if kafka.ssl_key_password else None
        context.load_cert_chain(kafka.ssl_certificate_file, kafka.ssl_key_file, password)
    return context


def logger_and_message(record: logging.LogRecord) -> object:
    """Return a library's logger and the message before its arguments are filled in."""
    if not record.name.startswith(LIBRARIES):
        return None
    return record.name, str(record.msg)[:100]


def quieten(log_level: str) -> None:
    """Keep the libraries' steps out of the log, and thin out what they repeat.

    Parameters
    ----------
    log_level
        Least severe line that is logged; debug keeps everything.
    """
    if log_level == "debug":
        return
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    # A timer that is late is no news on a machine that is busy with serving.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    thinned = OncePerWindow(logger_and_message)
    for handler in logging.getLogger().handlers:
        handler.addFilter(thinned)
