"""Where ``penstock model`` finds a version, and what it checks before keys go to it.

The routing state knows what has served, MLflow what was trained, the model server's folder what
would be loaded. Only where all that are asked agree may a version answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from penstock_replay.refusal import Refused
from penstock_routing.states import find
from penstock_schemas.errors import ConfigError, PenstockError, RetryableError
from penstock_schemas.records import ModelVersion, RoutingState
from penstock_training.deployment import ModelServer, deploy, load, routed
from penstock_training.publish import published_digest
from penstock_training.tracking import CHAMPION, Tracker

from penstock_cli import console
from penstock_cli.addresses import addresses
from penstock_cli.options import Profile

if TYPE_CHECKING:
    from penstock_stack.component import StackConfig


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one pipeline's model.

    Parameters
    ----------
    folder
        The pipeline's.
    mlflow
        Tracking server; None where the settings name none.
    server
        The model server; None where the settings name none.
    """

    folder: Path
    mlflow: str | None
    server: ModelServer | None

    def named(self, state: RoutingState, version: str) -> ModelVersion:
        """Return a version that may be given keys: one of the state, or one that is registered.

        Raises
        ------
        Refused
            It is neither.
        ConfigError
            It is not in the state, and the settings name no tracking server.
        TrackingUnavailable
            MLflow does not answer.
        """
        there = find(state, version)
        if there is not None:
            return there
        tracker = self._tracker(state.pipeline)
        registered = tracker.versions()
        if version not in registered:
            raise Refused(
                f"{state.pipeline} has no version {version!r}; MLflow knows "
                f"{', '.join(registered) or 'none'}"
            )
        return routed(tracker.version(version), "", 0, "retired")

    def check(self, version: ModelVersion) -> None:
        """Refuse a version whose published file is not the one that was registered.

        Raises
        ------
        Refused
            Names both digests.
        """
        if self.server is None:
            return
        there = published_digest(self.server.models_dir, version.served_as)
        if there not in (None, version.digest):
            raise Refused(
                f"{self.server.models_dir / version.served_as}: digest is {there}, but version "
                f"{version.version} is {version.digest}; restore the file, or take another version"
            )

    def make_ready(self, version: ModelVersion) -> None:
        """Have the model server load the version beside the others, and try what is new to it.

        Raises
        ------
        Refused
            What MLflow holds is not what the routing state names.
        ModelUnavailable
            The server does not load it.
        """
        if self.server is None:
            return
        if published_digest(self.server.models_dir, version.served_as) == version.digest:
            load(self.server.triton_grpc, version.served_as)
            return
        from penstock_pipelines.loader import load_pipeline

        tracker = self._tracker(version.model_name)
        model = tracker.version(version.version)
        if model.digest != version.digest:
            raise Refused(
                f"MLflow {model.name}/{model.version}: digest is {model.digest}, but the routing "
                f"state names {version.digest}"
            )
        try:
            deploy(self.server, load_pipeline(self.folder), tracker, model)
        except RetryableError:
            raise
        except PenstockError as exc:
            raise Refused(f"version {version.version} does not pass its trial: {exc}") from exc

    def record_champion(self, version: ModelVersion) -> None:
        """Tell MLflow who is champion; the routing topic is the order, so that it may fail."""
        if self.mlflow is None:
            return
        try:
            self._tracker(version.model_name).set_alias(version.version, CHAMPION)
        except PenstockError as exc:
            console.note(f"penstock: done, but MLflow was not told: {exc}")

    def _tracker(self, model_name: str) -> Tracker:
        if self.mlflow is None:
            raise ConfigError(
                "PENSTOCK_MLFLOW_URL names no tracking server, and only versions of the routing "
                "state can be used without; see 'penstock model ls'"
            )
        return Tracker(self.mlflow, model_name)


def open_versions(profile: Profile, config: StackConfig, folder: Path) -> Versions:
    """Return the versions of a pipeline's model, where the profile says.

    Raises
    ------
    ConfigError
        Profile prod, and the settings are incomplete.
    """
    found = addresses(profile, config)
    server = None
    if found.triton_grpc and found.models_dir:
        server = ModelServer(found.triton_grpc, found.models_dir)
    return Versions(folder, found.mlflow_url, server)
