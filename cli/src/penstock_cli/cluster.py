"""Where the verbs of an engineer on call act: broker, registry, pipelines, and who asks."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from penstock_schemas.errors import Refused

from penstock_cli import console
from penstock_cli.options import ExitCode, Where, pipeline_folder, stack_config

if TYPE_CHECKING:
    from penstock_registry.schema_registry import RegistryClient
    from penstock_replay.offsets import Bound
    from penstock_schemas.topics import PipelineTopics
    from penstock_streaming.audit import AuditLog, Operation
    from penstock_streaming.settings import KafkaSettings

Rate = Annotated[
    float | None, typer.Option(min=0.1, help="Records per second; as fast as it goes if unset.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, show what would be done.")]
_NOTE_EVERY_S = 5.0
_NEXT = "'penstock status' tells what runs"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A broker with its registry.

    Parameters
    ----------
    folders
        Of the pipelines that are known.
    """

    kafka: KafkaSettings
    registry: RegistryClient
    registry_url: str
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, where: Where, pipelines: list[str] | None = None) -> Cluster:
        """Return what the options mean."""
        from penstock_registry.schema_registry import RegistryClient, RegistrySettings
        from penstock_stack.endpoints import Endpoints
        from penstock_stack.registry_server import API_PATH
        from penstock_streaming.settings import KafkaSettings

        try:
            config = stack_config(where.data_dir, pipelines, where.port_offset)
            endpoints, folders = config.endpoints, config.pipelines
        except typer.BadParameter:
            if pipelines:
                raise
            # No pipeline is asked for, so it is no harm that the default one is not here.
            endpoints, folders = Endpoints.from_environment(os.environ, where.port_offset or 0), ()
        url = where.registry_url or endpoints.url("REGISTRY", API_PATH)
        here = sorted(file.parent for file in Path("pipelines").glob("*/pipeline.yaml"))
        return cls(
            KafkaSettings(bootstrap_servers=where.bootstrap_servers or endpoints.address("KAFKA")),
            RegistryClient(RegistrySettings(url=url)),
            url,
            tuple({folder.name: folder for folder in (*here, *folders)}.values()),
        )

    @property
    def audit(self) -> AuditLog:
        """The audit topic."""
        from penstock_streaming.audit import AuditLog

        return AuditLog(self.kafka, self.registry)

    @property
    def topics(self) -> list[PipelineTopics]:
        """Topic names of the known pipelines."""
        return list(map(topics_of, self.folders))


def topics_of(folder: Path | str) -> PipelineTopics:
    """Return the topic names of a pipeline given by folder or by name."""
    from penstock_cli.options import topics_of as read

    try:
        return read(pipeline_folder(folder) if isinstance(folder, str) else folder)
    except typer.BadParameter as exc:
        raise typer.BadParameter(exc.message, param_hint="PIPELINE") from exc


def operation(action: str, subject: str, arguments: Mapping[str, object]) -> Operation:
    """Return a new operation of whoever runs this command; options not given are left out."""
    import uuid

    from penstock_streaming.audit import Operation

    given = {name: str(value) for name, value in arguments.items() if value not in (None, "", ())}
    return Operation(f"{action}-{uuid.uuid4().hex[:12]}", actor(), action, subject, given)


def actor() -> str:
    """Return who runs this command: PENSTOCK_ACTOR, else the user of the system."""
    named = os.environ.get("PENSTOCK_ACTOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def bound(text: str, option: str) -> Bound:
    """Read a bound given by an option; a wrong one is a usage error."""
    from penstock_replay.offsets import parse_bound

    try:
        return parse_bound(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from exc


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal into its exit code."""
    try:
        yield
    except Refused as exc:
        console.note(f"penstock: refused: {exc}")
        raise typer.Exit(ExitCode.REFUSED) from exc


@contextmanager
def acting(on: Cluster) -> Iterator[None]:
    """Turn a refusal into its exit code, and name what was not reached and how to change it."""
    from penstock_schemas.errors import BrokerUnavailable, RegistryUnavailable

    try:
        with refusals():
            yield
    except BrokerUnavailable as exc:
        where = f"Kafka at {on.kafka.bootstrap_servers} (--bootstrap-servers)"
        raise BrokerUnavailable(f"{exc}; {where}: {_NEXT}") from exc
    except RegistryUnavailable as exc:
        where = f"the registry at {on.registry_url} (--registry-url)"
        raise RegistryUnavailable(f"{exc}; {where}: {_NEXT}") from exc


class Ticker:
    """Prints counts on standard error, every few seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _NOTE_EVERY_S

    def show(self, counts: Mapping[str, int]) -> None:
        """Take the counts so far."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _NOTE_EVERY_S
            console.note("  " + words(counts))


def words(counts: Mapping[str, int]) -> str:
    """Return counts as a line.

    Examples
    --------
    >>> words({"replayed": 1200, "parked": 0, "already_done": 3})
    '1,200 replayed, 3 already done'
    """
    shown = (f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    return ", ".join(shown) or "nothing"


def moment(at_ms: int | None) -> str | None:
    """Return a time as text, UTC."""
    if at_ms is None:
        return None
    try:
        at = datetime.fromtimestamp(at_ms / 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
