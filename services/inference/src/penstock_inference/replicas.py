"""Small files in the run folder by which processes of this service know of each other.

``inference-replicas/<pid>.json`` is written by each router replica, so that ``penstock status`` and
/ready need no Ray; ``inference-scale.json`` holds the wanted number of replicas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

REPLICAS: Final = "inference-replicas"
SCALE: Final = "inference-scale.json"
METRICS: Final = "inference-metrics"
_SAME_START_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """One replica, as of its last heartbeat.

    Parameters
    ----------
    started_at
        Start of the process, seconds since the epoch: with the pid it names the process.
    ready
        Whether it takes records: it has its partitions and a model that answers.
    """

    pid: int
    pipeline: str
    started_at: float
    ready: bool


def write_replica(run_dir: Path, facts: ReplicaFacts) -> None:
    """Write the file of a replica."""
    _write(run_dir / REPLICAS / f"{facts.pid}.json", asdict(facts))


def remove_replica(run_dir: Path, pid: int) -> None:
    """Remove the file of a replica."""
    (run_dir / REPLICAS / f"{pid}.json").unlink(missing_ok=True)


def own_facts(pipeline: str) -> ReplicaFacts:
    """Return the facts of this process, not ready yet."""
    process = psutil.Process()
    return ReplicaFacts(process.pid, pipeline, process.create_time(), ready=False)


def live_replicas(run_dir: Path) -> tuple[list[ReplicaFacts], list[int]]:
    """Return the replicas that run, and the pids of files whose process is gone."""
    alive: list[ReplicaFacts] = []
    gone: list[int] = []
    for path in sorted((run_dir / REPLICAS).glob("*.json")):
        facts = _read(path)
        if facts is None:
            gone.append(int(path.stem)) if path.stem.isdecimal() else path.unlink(missing_ok=True)
        elif is_running(facts):
            alive.append(facts)
        else:
            gone.append(facts.pid)
    return alive, gone


def is_running(facts: ReplicaFacts) -> bool:
    """Tell whether the process of a file is still that process."""
    try:
        process = psutil.Process(facts.pid)
        is_same = abs(process.create_time() - facts.started_at) < _SAME_START_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


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
    wanted = {**wanted_replicas(run_dir), pipeline: replicas}
    _write(run_dir / SCALE, wanted)


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(path)


def _read(path: Path) -> ReplicaFacts | None:
    try:
        return ReplicaFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
