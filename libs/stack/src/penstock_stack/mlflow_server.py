"""The embedded MLflow tracking server and model registry: SQLite and a folder of artifacts."""

from __future__ import annotations

import sys

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
    argv = (sys.executable, "-m", "penstock_stack.mlflow_main", HOST, port, str(home))
    return Launch(argv, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, home)
