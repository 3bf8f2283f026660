"""Kills a process at a named place of its work: a loop by its clients and handler, a job by a hook.

The loop's product code knows nothing of it: `kill_at` is a `LoopSettings.wrapper`. Jobs, the
trigger and the copier pass `penstock_service.fail_points.FailPoints`, which does nothing until
`kill_site/sitecustomize.py` puts a `KillSwitch` there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from confluent_kafka import Message, TopicPartition
from penstock_schemas.errors import ConfigError
from penstock_service.fail_points import FailPoints
from penstock_streaming.clients import (
    Clients,
    ConsumerClient,
    ProducerClient,
    RebalanceCallback,
    TopicsClient,
)
from penstock_streaming.handler import (
    HandledBatch,
    Handler,
    MessageBatch,
    OutputColumns,
    PendingBatch,
)

VARIABLE: Final = "PENSTOCK_FAIL_POINT"
"""Read by `kill_site/sitecustomize.py`: ``place:visit``."""
TESTS: Final = Path(__file__).parents[1]

LOOP_KILLS: Final = (
    "after_poll",
    "after_submit",
    "after_result",
    "mid_produce",
    "before_offsets",
    "after_flush",
    "after_offsets",
    "during_commit",
    "after_commit",
)
"""Places in the loop's work where `kill_at` ends its process, in their order."""
JOB_KILLS: Final = (
    # training job
    "after_run",
    "after_started",
    "after_rows",
    "before_log",
    "after_log",
    "mid_upload",
    "after_register",
    "after_publish",
    "after_canary",
    "in_canary",
    "after_verdict",
    "after_routing",
    "before_finished",
    "after_finished",
    # retrain trigger
    "before_submit",
    "after_submit",
    "before_order",
    "after_order",
    # copier of replay and dead letters
    "mid_copy",
    "before_commit",
    "during_commit",
    "after_commit",
)
"""Places that jobs pass: `FailPoints.reach` and `FailPoints.during` in the product."""
DURING_DELAY_S: Final = 0.0005
"""How long a call runs before `KillSwitch.during` kills: less than a commit takes."""


class KillSwitch:
    """Kills the process by SIGKILL at a named place, at one of its visits.

    Parameters
    ----------
    name
        The place.
    count
        The visit at which to kill, from 1.
    """

    def __init__(self, name: str, count: int = 1) -> None:
        self._name = name
        self._left = count

    @classmethod
    def parse(cls, text: str, places: Sequence[str]) -> KillSwitch:
        """Return the switch of ``place:visit``.

        Raises
        ------
        ConfigError
            If it names none of the places.
        """
        name, _, count = text.partition(":")
        if name not in places or not (count or "1").isdigit():
            known = ", ".join(places)
            raise ConfigError(f"kill at {text!r}: give one of {known}, with :n for the visit")
        return cls(name, int(count or "1"))

    def is_at(self, name: str) -> bool:
        """Whether it kills at this place, at whichever visit."""
        return name == self._name

    def reach(self, name: str) -> None:
        """Pass a place, or die there."""
        if self._is_due(name):
            _kill()

    def during(self, name: str) -> None:
        """Pass a place where the next call dies while it runs."""
        if self._is_due(name):
            timer = threading.Timer(DURING_DELAY_S, _kill)
            timer.daemon = True
            timer.start()

    def _is_due(self, name: str) -> bool:
        self._left -= name == self._name
        return name == self._name and self._left == 0


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(place: str, clients: Clients, handler: Handler) -> tuple[Clients, Handler]:
    """Wrap a loop's clients and handler so that its process is killed at a place.

    For `LoopSettings.wrapper`, as ``harness.kills:kill_at=before_offsets:3``.

    Parameters
    ----------
    place
        One of `LOOP_KILLS`, with the visit.
    """
    kill = KillSwitch.parse(place, LOOP_KILLS)
    wrapped = KilledHandler(handler, kill)
    return KilledClients(clients, wrapped, kill), wrapped


class KilledHandler:
    """A handler whose calls are the places between poll and produce, and around the commit.

    Attributes
    ----------
    half_rows
        Half of the records that the loop was last given to produce.
    """

    def __init__(self, handler: Handler, kill: KillSwitch) -> None:
        self.half_rows = -1
        self._handler = handler
        self._kill = kill
        self._is_committing = False

    def submit(self, batch: MessageBatch) -> PendingBatch:
        """Submit, and die ``after_submit``."""
        pending = self._handler.submit(batch)
        self._kill.reach("after_submit")
        return _KilledPending(pending, self, self._kill)

    def changelog(self) -> Sequence[OutputColumns]:
        """Die ``before_offsets``: a commit begins by asking for the state changes."""
        self._is_committing = True
        self._kill.reach("before_offsets")
        changes = self._handler.changelog()
        self.expect(changes)
        return changes

    def committed(self) -> None:
        """Die ``after_commit``, unless only positions were committed."""
        self._handler.committed()
        if self._is_committing:
            self._kill.reach("after_commit")
        self._is_committing = False

    def assigned(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Pass it on."""
        self._handler.assigned(partitions, deadline_s)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Pass it on."""
        self._handler.revoked(partitions)

    def rolled_back(self, partitions: Sequence[int], deadline_s: float) -> None:
        """Pass it on."""
        self._is_committing = False
        self._handler.rolled_back(partitions, deadline_s)

    def expect(self, outputs: Sequence[OutputColumns]) -> None:
        """Note how many records the loop is about to produce."""
        rows = sum(len(columns.values) for columns in outputs)
        self.half_rows = rows // 2 if rows else -1


@dataclass(frozen=True, slots=True)
class _KilledPending:
    """A pending batch whose result is the place ``after_result``."""

    pending: PendingBatch
    handler: KilledHandler
    kill: KillSwitch

    def done(self, within_s: float = 0.0) -> bool:
        """Pass it on."""
        return self.pending.done(within_s)

    def result(self, timeout_s: float) -> HandledBatch:
        """Return the outcome, and die ``after_result``."""
        handled = self.pending.result(timeout_s)
        self.kill.reach("after_result")
        self.handler.expect(handled.outputs)
        return handled


class _Passing:
    """A client whose calls are those of another one but for what a subclass defines."""

    def __init__(self, client: Any, handler: KilledHandler, kill: KillSwitch) -> None:
        self._client = client
        self._handler = handler
        self._kill = kill

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class KilledConsumer(_Passing):
    """A consumer client whose calls are places of a poll, and of a commit at least once."""

    def subscribe(self, topics: list[str], **callbacks: RebalanceCallback) -> None:
        """Subscribe with callbacks that are given this object, as the loop knows the client."""
        mine = {
            name: (lambda _, partitions, call=call: call(self, partitions))
            for name, call in callbacks.items()
        }
        self._client.subscribe(topics, **mine)

    def poll(self, timeout: float) -> Message | None:
        """Poll, and die ``after_poll`` if there is a message."""
        message: Message | None = self._client.poll(timeout)
        if message is not None and message.error() is None:
            self._kill.reach("after_poll")
        return message

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        """Die ``after_flush``, ``after_offsets`` or ``during_commit``: all is flushed by now."""
        self._kill.reach("after_flush")
        self._kill.reach("after_offsets")
        self._kill.during("during_commit")
        return self._client.commit(offsets=offsets, asynchronous=asynchronous)


class KilledProducer(_Passing):
    """A producer client whose calls are places of the production and of a transaction's commit."""

    def __init__(self, client: Any, handler: KilledHandler, kill: KillSwitch) -> None:
        super().__init__(client, handler, kill)
        if kill.is_at("mid_produce"):
            self.produce = self._produce_until_half
        else:
            self.produce = client.produce

    def _produce_until_half(self, *record: Any, **facts: Any) -> None:
        """Die ``mid_produce``, with half of a batch's records in the log, none of them visible."""
        if self._handler.half_rows == 0:
            self._client.flush(1.0)
            self._kill.reach("mid_produce")
        self._handler.half_rows -= 1
        self._client.produce(*record, **facts)

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: object, timeout: float
    ) -> None:
        """Die ``after_flush`` before the offsets are sent, or ``after_offsets``."""
        if self._kill.is_at("after_flush"):
            self._client.flush(timeout)
            self._kill.reach("after_flush")
        self._client.send_offsets_to_transaction(positions, group_metadata, timeout)
        self._kill.reach("after_offsets")

    def commit_transaction(self, timeout: float) -> None:
        """Die ``during_commit``."""
        self._kill.during("during_commit")
        self._client.commit_transaction(timeout)


@dataclass(frozen=True, slots=True)
class KilledClients:
    """Makes clients whose calls are the places that the handler's are not."""

    clients: Clients
    handler: KilledHandler
    kill: KillSwitch

    def consumer(self, config: dict[str, Any]) -> ConsumerClient:
        """Return a new consumer."""
        made = KilledConsumer(self.clients.consumer(config), self.handler, self.kill)
        return cast("ConsumerClient", made)

    def producer(self, config: dict[str, Any]) -> ProducerClient:
        """Return a new producer."""
        made = KilledProducer(self.clients.producer(config), self.handler, self.kill)
        return cast("ProducerClient", made)

    def topics(self, config: dict[str, Any]) -> TopicsClient:
        """Return the client that knows of topics."""
        return self.clients.topics(config)


def wrapper(place: str) -> str:
    """Return the `LoopSettings.wrapper` that kills a loop's process at a place."""
    return f"harness.kills:kill_at={place}"


def kill_loop(prefix: str, place: str) -> dict[str, str]:
    """Return the variables with which a service's loop is killed at a place.

    Parameters
    ----------
    prefix
        Of the service's settings, such as ``PENSTOCK_INGEST_``.
    """
    return {f"{prefix}LOOP__WRAPPER": wrapper(place), **tests_path()}


def kill_job(place: str) -> dict[str, str]:
    """Return the variables with which a process is killed at a fail point; none if it is ""."""
    if not place:
        return {}
    KillSwitch.parse(place, JOB_KILLS)
    return {VARIABLE: place, **tests_path(TESTS / "harness" / "kill_site")}


def tests_path(*folders: Path) -> dict[str, str]:
    """Return the variable that lets another process import these tests, and what is in folders."""
    known = os.environ.get("PYTHONPATH")
    paths = [*map(str, folders), str(TESTS), *([known] if known else [])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def arm_fail_points(text: str) -> None:
    """Have this process killed where it passes a fail point: ``place:visit``."""
    kill = KillSwitch.parse(text, JOB_KILLS)
    FailPoints.reach = lambda _, name: kill.reach(name)  # type: ignore[method-assign]
    FailPoints.during = lambda _, name: kill.during(name)  # type: ignore[method-assign]
