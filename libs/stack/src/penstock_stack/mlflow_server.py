"""The embedded MLflow tracking server and model registry: SQLite and a folder of artifacts.

``python -m penstock_stack.mlflow_server HOST PORT HOME`` serves it in one process. ``mlflow
server`` imports MLflow, prepares the database, and then starts a second Python that imports it
again: six seconds of processor time at every start. The names of the variables are taken from
MLflow itself, so that a change there fails at import and not later.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from penstock_stack import probes
from penstock_stack.component import Component, Launch, StackConfig
from penstock_stack.endpoints import HOST


def mlflow(config: StackConfig) -> Component:
    """Return MLflow's component."""
    port = config.endpoints.port("MLFLOW")
    return Component(
        name="mlflow",
        prepare=lambda: _prepare(config),
        is_ready=lambda: probes.http_ok(port, "/health"),
        # The longest chain of a later start is Ray, then inference: MLflow gives way to Ray.
        needs=("ray",) if config.has_served else (),
        ports=("MLFLOW",),
        endpoint=config.endpoints.url("MLFLOW"),
        deadline_s=120.0,
        # Nothing that serves waits for it; it must not slow down what does.
        niceness=5,
    )


def _prepare(config: StackConfig) -> Launch:
    home = config.data_dir / "mlflow"
    (home / "artifacts").mkdir(parents=True, exist_ok=True)
    port = str(config.endpoints.port("MLFLOW"))
    argv = (sys.executable, "-m", "penstock_stack.mlflow_server", HOST, port, str(home))
    return Launch(argv, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, home)


def main(host: str, port: int, home: Path) -> None:
    """Serve the tracking API and the artifacts below ``home`` until SIGTERM."""
    import uvicorn
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    store = f"sqlite:///{home / 'mlflow.db'}"
    root = "mlflow-artifacts:/"
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: root,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(home / "artifacts"),
    }
    initialize_backend_stores(store, store, root)
    uvicorn.run("mlflow.server.fastapi_app:app", host=host, port=port, access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
