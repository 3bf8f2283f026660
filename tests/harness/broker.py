"""A Kafka cluster of a test's own: brokers that it may stop, kill, freeze and start again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.waiting import eventually
from penstock_stack.artifacts import cache_dir, kafka_classpath
from penstock_stack.kafka_server import CLUSTER_ID, java
from penstock_stack.probes import kafka_answers

HOST: Final = "127.0.0.1"
PORTS: Final = (11_000, 15_000)
START_S: Final = 120.0
STOP_S: Final = 30.0
PROPERTIES: Final = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{behind},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port},PROXIED://{host}:{proxied}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=6
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=6
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=3
group.initial.rebalance.delay.ms=0
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
"""
LOGGING: Final = """\
status = warn
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = STDOUT
appender.stdout.type = Console
appender.stdout.name = STDOUT
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d{ISO8601} %p %c{1} %m%n
"""


def free_port() -> int:
    """Return a port that nothing listens on.

    None that the kernel gives to outgoing connections: it must be free again after a bounce.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


@dataclass
class Broker:
    """One broker, also a controller.

    Parameters
    ----------
    proxied
        Port that clients of the listener at ``behind`` are told to use.
    """

    node: int
    home: Path
    port: int = field(default_factory=free_port)
    behind: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)
    proxied: int = 0
    process: subprocess.Popen[bytes] | None = None

    def prepare(self, voters: str, replicas: int) -> None:
        """Write the configuration and format the log directory."""
        self.home.mkdir(parents=True)
        (self.home / "log4j2.properties").write_text(LOGGING)
        text = PROPERTIES.format(
            node=self.node,
            voters=voters,
            host=HOST,
            port=self.port,
            behind=self.behind,
            controller=self.controller,
            proxied=self.proxied or self.behind,
            data=self.home / "data",
            replicas=replicas,
            in_sync=max(1, replicas - 1),
        )
        (self.home / "server.properties").write_text(text)
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID]
        command = [*self._java(), *tool, "--config", str(self.home / "server.properties")]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S)

    def start(self) -> None:
        """Start the process and wait for nothing."""
        options = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        command = [*self._java(options), "kafka.Kafka", str(self.home / "server.properties")]
        with (self.home / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def await_answer(self) -> None:
        """Wait until it answers."""
        eventually(lambda: kafka_answers(self.port), START_S, f"broker {self.node} answers")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process and wait for that; SIGTERM hands leadership over first."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(STOP_S)
            self.process = None

    @property
    def pids(self) -> list[int]:
        """Its process, for `harness.faults.frozen`."""
        assert self.process is not None
        return [self.process.pid]

    def _java(self, options: Sequence[str] = ()) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.home / 'log4j2.properties'}"
        jars = os.pathsep.join(map(str, kafka_classpath(cache_dir(os.environ))))
        return [java(), *options, logging, "-cp", jars]


class Cluster:
    """Brokers of one cluster; every topic has as many replicas as there are brokers.

    Parameters
    ----------
    proxied
        Port of a proxy in front of the only broker's second listener.
    """

    def __init__(self, root: Path, brokers: int = 1, proxied: int = 0) -> None:
        self.brokers = [Broker(n, root / str(n), proxied=proxied) for n in range(1, brokers + 1)]
        voters = ",".join(f"{b.node}@{HOST}:{b.controller}" for b in self.brokers)
        for broker in self.brokers:
            broker.prepare(voters, brokers)

    @property
    def bootstrap(self) -> str:
        """Bootstrap servers."""
        return ",".join(f"{HOST}:{broker.port}" for broker in self.brokers)

    def start(self) -> None:
        """Start what is down and wait until it answers."""
        for broker in self.brokers:
            if broker.process is None:
                broker.start()
        for broker in self.brokers:
            broker.await_answer()

    def close(self) -> None:
        """Kill all brokers."""
        for broker in self.brokers:
            broker.stop(signal.SIGKILL)
