"""The replicas of a deployment: each reports itself, the service's process reads the reports.

A report goes into the key-value store of Ray's GCS, which every node of the cluster reaches: who
the replica is, whether it takes records, and its metrics. So ``penstock status``, ``/ready`` and
``/metrics`` know the replicas of all nodes. The wanted number of replicas is a file of the
service's own.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from penstock_service.metrics import Family, exposition, families_of, merged
from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

SCALE: Final = "inference-scale.json"
LOOK_S: Final = 0.2
"""Time between two looks of a replica at itself, seconds: a change is reported at once."""
BEAT_S: Final = 1.0
"""Time between two reports of a replica in which nothing changes, seconds."""
SILENT_S: Final = 5.0
"""Silence after which a replica counts as gone, seconds."""
UNREAD_S: Final = 30.0
"""Time without a reading after which no replica counts as alive, seconds."""
MOST_ENDED: Final = 32
"""Ended replicas that are kept one by one, for one that was only frozen reports again."""
GCS_TIMEOUT_S: Final = 2.0
_NAMESPACE: Final = b"penstock"
_PREFIX: Final = "replica-"


class Report(msgspec.Struct, array_like=True):
    """One replica, as it says itself.

    Parameters
    ----------
    pipeline
        Whose router it is; empty for the gateway.
    beat
        Number of the report: a replica whose number does not grow is silent. Clocks may differ.
    is_ready
        Whether it takes records: it has its partitions and a model that answers.
    is_closed
        Whether this is its last report.
    """

    pipeline: str
    node: str
    pid: int
    beat: int
    is_ready: bool
    is_closed: bool
    metrics: list[Family]


class ReportStore(Protocol):
    """Where reports are kept; `GcsStore` in service."""

    def put_report(self, key: str, report: bytes) -> None:
        """Keep a replica's report in place of its last one."""

    def all_reports(self) -> dict[str, bytes]:
        """Return the reports of all replicas of the deployment."""

    def delete_report(self, key: str) -> None:
        """Forget a replica's report."""


@dataclass(slots=True)
class GcsStore:
    """The key-value store of Ray's GCS; each call ends within `GCS_TIMEOUT_S` while Ray is there.

    Parameters
    ----------
    deployment
        Replicas of others, such as those of the release before, are not seen.
    """

    deployment: str

    def put_report(self, key: str, report: bytes) -> None:
        """Keep a replica's report in place of its last one."""
        _gcs().internal_kv_put(self._key(key), report, True, _NAMESPACE, timeout=GCS_TIMEOUT_S)

    def all_reports(self) -> dict[str, bytes]:
        """Return the reports of all replicas of the deployment."""
        gcs, prefix = _gcs(), self._key("")
        keys = gcs.internal_kv_keys(prefix, _NAMESPACE, timeout=GCS_TIMEOUT_S)
        found = gcs.internal_kv_multi_get(keys, _NAMESPACE, timeout=GCS_TIMEOUT_S) if keys else {}
        return {key.removeprefix(prefix).decode(): report for key, report in found.items()}

    def delete_report(self, key: str) -> None:
        """Forget a replica's report."""
        _gcs().internal_kv_del(self._key(key), False, _NAMESPACE, timeout=GCS_TIMEOUT_S)

    def delete_all_reports(self) -> None:
        """Forget the reports of all deployments."""
        _gcs().internal_kv_del(_PREFIX.encode(), True, _NAMESPACE, timeout=GCS_TIMEOUT_S)

    def _key(self, key: str) -> bytes:
        return f"{_PREFIX}{self.deployment}-{key}".encode()


def _gcs() -> Any:
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    return internal_kv_get_gcs_client()


class Heartbeat:
    """Reports a replica, on a thread of its own: the store may be slow, or away.

    Parameters
    ----------
    registry
        Its metrics.
    is_ready
        Whether it takes records.
    """

    def __init__(
        self,
        store: ReportStore,
        pipeline: str,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
    ) -> None:
        self._store = store
        self._registry = registry
        self._is_ready = is_ready
        self._key = uuid.uuid4().hex
        node, pid = socket.gethostname(), os.getpid()
        self._report = Report(pipeline, node, pid, 0, is_ready=False, is_closed=False, metrics=[])
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send the last report."""
        self._closing.set()
        self._thread.join(2 * GCS_TIMEOUT_S)

    def _run(self) -> None:
        due = 0.0
        while not self._closing.wait(LOOK_S):
            try:
                is_ready = self._is_ready()
            except Exception:
                logger.exception("heartbeat: whether it is ready is not known")
                is_ready = False
            if is_ready != self._report.is_ready or time.monotonic() >= due:
                due = time.monotonic() + BEAT_S
                self._report.is_ready = is_ready
                self._send()
        self._report.is_ready, self._report.is_closed = False, True
        self._send()

    def _send(self) -> None:
        self._report.beat += 1
        try:
            self._report.metrics = families_of(self._registry)
            self._store.put_report(self._key, msgspec.msgpack.encode(self._report))
        except Exception as exc:
            # Whatever Ray raises while its head is away; the next beat tries again.
            logger.warning("heartbeat: %s: %s", type(exc).__name__, exc)


@dataclass(frozen=True, slots=True)
class _Heard:
    report: Report
    at_s: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What one reading knows; replaced as a whole, so that nobody sees a replica twice.

    Parameters
    ----------
    heard
        By replica.
    ended
        The sum of the metrics of those that have ended and are in ``heard`` no longer.
    read_at_s
        When the reports were read: a replica is silent if it was so then, for the next reading
        may take its time.
    """

    heard: dict[str, _Heard]
    ended: list[Family]
    read_at_s: float


@dataclass(slots=True)
class Replicas:
    """The replicas of one deployment by their reports; one thread reads, any may ask.

    Examples
    --------
    A replica that was counted as gone and reports again counts once: its metrics are kept by
    replica, and summed only when they are shown.
    """

    store: ReportStore
    clock: Callable[[], float] = time.monotonic
    _known: _Known = field(default_factory=lambda: _Known({}, [], 0.0))

    def read_reports(self) -> list[Report]:
        """Read the reports; return those of replicas that have gone since, and forget them."""
        reports, now_s = self.store.all_reports(), self.clock()
        heard, sum_of_ended = dict(self._known.heard), self._known.ended
        for key, text in reports.items():
            report = msgspec.msgpack.decode(text, type=Report)
            if key not in heard or heard[key].report.beat != report.beat:
                heard[key] = _Heard(report, now_s)
        gone = [key for key in reports if not self._lives(heard[key], now_s)]
        for key in gone:
            self.store.delete_report(key)
        found = [heard[key].report for key in gone]
        ended = [key for key, each in heard.items() if not self._lives(each, now_s)]
        ended.sort(key=lambda key: heard[key].at_s)
        for key in ended[:-MOST_ENDED]:
            old = heard.pop(key).report.metrics
            sum_of_ended = merged([(sum_of_ended, False), (old, False)])
        self._known = _Known(heard, sum_of_ended, now_s)
        return found

    @property
    def live(self) -> list[Report]:
        """The routers that have been heard of lately."""
        known, now_s = self._known, self._judged_at_s()
        return [
            heard.report
            for heard in known.heard.values()
            if heard.report.pipeline and self._lives(heard, now_s)
        ]

    def metrics_page(self) -> bytes:
        """Return the metrics of all replicas and of the gateway as one exposition."""
        known, now_s = self._known, self._judged_at_s()
        each = [(heard.report.metrics, self._lives(heard, now_s)) for heard in known.heard.values()]
        return exposition(merged([(known.ended, False), *each]))

    def replicas_page(self) -> bytes:
        """Return the routers as JSON: pipeline, node, pid and whether they take records."""
        rows = [
            {"pipeline": r.pipeline, "node": r.node, "pid": r.pid, "ready": r.is_ready}
            for r in self.live
        ]
        return json.dumps(rows).encode()

    def _judged_at_s(self) -> float:
        """Return the time of the last reading, or now if that is too long ago to go by."""
        now_s, read_at_s = self.clock(), self._known.read_at_s
        return read_at_s if now_s - read_at_s < UNREAD_S else now_s

    @staticmethod
    def _lives(heard: _Heard, now_s: float) -> bool:
        return not heard.report.is_closed and now_s - heard.at_s < SILENT_S


def wanted_replicas(run_dir: Path) -> dict[str, int]:
    """Return the wanted replicas by pipeline, as `want_replicas` has noted them.

    0 stands for what the settings say, and so does no note, or a file that cannot be read.
    """
    try:
        content = json.loads((run_dir / SCALE).read_text(encoding="utf-8"))
        return {str(k): max(0, int(v)) for k, v in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def want_replicas(run_dir: Path, pipeline: str, replicas: int) -> None:
    """Note the wanted replicas of a pipeline, 0 for what the settings say.

    The running service applies it within seconds.
    """
    wanted: Mapping[str, int] = {**wanted_replicas(run_dir), pipeline: replicas}
    path = run_dir / SCALE
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(wanted), encoding="utf-8")
    aside.replace(path)
