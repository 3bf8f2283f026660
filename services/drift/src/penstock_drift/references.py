"""Training references, read from the tracking server by plain HTTP.

The tracking library itself is not imported: it would cost this service seconds at every start.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import requests
from penstock_monitoring.reference import REFERENCE_FILE, Reference
from penstock_schemas.errors import ConfigError, RetryableError

logger = logging.getLogger(__name__)


class TrackingUnavailable(RetryableError):
    """The tracking server does not answer."""


class TrackingServer:
    """Artifacts of the runs that have trained models.

    Parameters
    ----------
    url
        Address.
    timeout_s
        Longest wait for an answer, seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s

    def artifact(self, model_name: str, model_version: str, path: str) -> bytes | None:
        """Return a file of the run of a registered version; None where there is none.

        Raises
        ------
        TrackingUnavailable
            If the server does not answer, or answers with an error of its own.
        """
        wanted = {"name": model_name, "version": model_version}
        answer = self._get("/api/2.0/mlflow/model-versions/get", wanted)
        if answer is None:
            return None
        try:
            run_id = str(answer.json()["model_version"]["run_id"])
        except (ValueError, KeyError, TypeError) as exc:
            raise TrackingUnavailable(f"{self._url}: unreadable answer") from exc
        file = self._get("/get-artifact", {"run_uuid": run_id, "path": path})
        return None if file is None else file.content

    def _get(self, path: str, query: dict[str, str]) -> Any:
        try:
            answer = requests.get(self._url + path, params=query, timeout=self._timeout_s)
        except requests.RequestException as exc:
            raise TrackingUnavailable(f"{self._url}: {type(exc).__name__}") from exc
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        if answer.status_code != HTTPStatus.OK:
            raise TrackingUnavailable(f"{self._url}{path}: status {answer.status_code}")
        return answer


class References:
    """References by version, each read once.

    Parameters
    ----------
    server
        Where they are.
    """

    def __init__(self, server: TrackingServer) -> None:
        self._server = server
        self._known: dict[tuple[str, str], Reference | None] = {}

    def load(self, model_name: str, model_version: str) -> None:
        """Read a version's reference, unless it is known.

        Raises
        ------
        TrackingUnavailable
            If that is not possible now.
        """
        if (model_name, model_version) in self._known:
            return
        content = self._server.artifact(model_name, model_version, REFERENCE_FILE)
        reference = None
        try:
            if content is not None:
                reference = Reference.from_json(content)
        except ConfigError as exc:
            logger.warning("%s %s: %s", model_name, model_version, exc)
        if reference is None:
            logger.warning(
                "%s %s has no reference: its features and scores are not compared",
                model_name,
                model_version,
            )
        self._known[model_name, model_version] = reference

    def of(self, model_name: str, model_version: str) -> Reference | None:
        """Return a version's reference, which must have been loaded; None where there is none."""
        return self._known[model_name, model_version]
