"""What the supervisor knows about a part of the stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from penstock_schemas.errors import FatalError

from penstock_stack.endpoints import Endpoints


class ComponentFailed(FatalError):
    """A component did not start, or did not become ready before its deadline."""


class Stage(IntEnum):
    """Order of stopping: the highest first, everything of one stage at the same time."""

    LOG = 0
    INFRASTRUCTURE = 1
    SERVICE = 2


@dataclass(frozen=True, slots=True)
class Launch:
    """A command to run.

    Parameters
    ----------
    argv
        The command, never a shell line.
    environment
        Variables added to the supervisor's own.
    directory
        Working directory; the supervisor's own if None.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


class Preparation(Protocol):
    """Installs and configures whatever the component needs and returns its command."""

    def __call__(self) -> Launch:
        """Return the command to run."""
        ...


@dataclass(frozen=True, slots=True)
class Component:
    """One process, one job, or one action of the stack.

    Parameters
    ----------
    name
        Name shown by ``penstock status``; also the log's file name.
    prepare
        Called in the component's own thread before each start; may download.
    is_ready
        Answers within about a second; None for a job, which is ready when it exits with 0.
    action
        Runs inside the supervisor instead of a process; done when it returns.
    on_done
        Called when a job has ended well.
    on_stopped
        Called when the stack has stopped it: tidies up.
    needs
        Components that must be ready first.
    restarts_with
        Components whose restart restarts this one.
    ports
        Endpoint names it listens on; they must be free before it starts.
    endpoint
        Address shown by ``penstock status``.
    deadline_s
        Time from its start to ready, seconds.
    stop_s
        Time to drain after SIGTERM, seconds; SIGKILL after it.
    stage
        When it stops.
    is_stuck
        Says that it runs but does not work any more; None where only its exit tells.
    niceness
        How far it stands back for others when processors are short, 0 to 19.
    """

    name: str
    prepare: Preparation | None = None
    is_ready: Callable[[], bool] | None = None
    action: Callable[[], None] | None = None
    on_done: Callable[[], None] | None = None
    on_stopped: Callable[[], None] | None = None
    needs: tuple[str, ...] = ()
    restarts_with: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    endpoint: str = ""
    deadline_s: float = 60.0
    stop_s: float = 3.0
    stage: Stage = Stage.INFRASTRUCTURE
    is_stuck: Callable[[], bool] | None = None
    niceness: int = 0

    @property
    def is_job(self) -> bool:
        """Whether it ends by itself."""
        return self.is_ready is None


@dataclass(frozen=True, slots=True)
class StackConfig:
    """Where the stack lives and what it runs.

    Parameters
    ----------
    data_dir
        All state: logs, run files, topics, models, runs. Absolute.
    cache
        Downloaded artifacts, shared by stacks.
    endpoints
        Effective ports.
    pipelines
        Pipeline folders. Absolute.
    port_offset
        The offset already applied to ``endpoints``.
    """

    data_dir: Path
    cache: Path
    endpoints: Endpoints
    pipelines: tuple[Path, ...] = ()
    port_offset: int = 0

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.data_dir / "logs"

    @property
    def run(self) -> Path:
        """Folder of the supervisor's state and of the services' run files."""
        return self.data_dir / "run"

    @property
    def models(self) -> Path:
        """Triton's live model repository."""
        return self.data_dir / "models"

    @property
    def feast(self) -> Path:
        """Root of the feature repositories, one folder per pipeline."""
        return self.data_dir / "feast"

    @property
    def reports(self) -> Path:
        """Root of the drift reports, one folder per pipeline."""
        return self.data_dir / "reports"

    @property
    def has_served(self) -> bool:
        """Whether every pipeline had its first model ready here before.

        Then topics, feature stores and models are on disk, and what only checks them may take its
        time.
        """
        return bool(self.pipelines) and all(
            self.first_model_done(folder).is_file()
            and any(self.models.glob(f"{folder.name}__*/1/model.onnx"))
            for folder in self.pipelines
        )

    def first_model_done(self, folder: Path) -> Path:
        """Return the file that says that a pipeline's first-model job has ended well."""
        return self.run / f"first-model-{folder.name}.done"
