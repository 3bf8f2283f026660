"""MLflow's server in one process: ``python -m penstock_stack.mlflow_main HOST PORT HOME``.

``mlflow server`` imports MLflow, prepares the database, and then starts a second Python that
imports it again: six seconds of processor time at every start. This does the same in one. The names
of the variables are taken from MLflow itself, so that a change there fails at import and not later.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
