"""Carry out one retrain request: ``python -m penstock_training_job --request-id …``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Final

from penstock_schemas.errors import PenstockError, RetryableError
from penstock_service.fail_points import FailPoints
from penstock_streaming.timing import Deadline

from penstock_training_job.job import Addresses, open_job
from penstock_training_job.run import run

LOG = logging.getLogger("penstock.retrain_job")
OUTAGE_S: Final = 180.0
"""How long an outage of what the job needs is waited out, seconds."""
CALM_S: Final = 60.0
"""Time without a failure after which the next one is another outage, seconds."""


def carry_out(request_id: str, pipeline_dir: Path, addresses: Addresses) -> None:
    """Run the job; every step may be repeated, so an outage is waited out by starting again.

    Raises
    ------
    RetryableError
        If an outage lasts too long.
    PenstockError
        If the job fails for good.
    """
    fail_points = FailPoints()
    outage = Deadline(OUTAGE_S)
    failed_at = 0.0
    while True:
        try:
            run(open_job(request_id, pipeline_dir, addresses, fail_points))
            return
        except RetryableError as exc:
            now = time.monotonic()
            if now - failed_at > CALM_S:
                outage = Deadline(OUTAGE_S)
            if outage.expired:
                raise
            failed_at = now
            LOG.warning("starting again: %s", exc)
            time.sleep(exc.retry_after_s)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Carry out one retrain request.")
    parser.add_argument("--request-id", required=True)
    parser.add_argument("--pipeline-dir", type=Path, required=True)
    parser.add_argument("--kafka", required=True, help="host:port,…")
    parser.add_argument("--registry", required=True, help="URL of a Confluent-compatible API")
    parser.add_argument("--mlflow", required=True, help="tracking URI")
    parser.add_argument("--triton-grpc", required=True, help="host:port")
    parser.add_argument("--models-dir", type=Path, required=True)
    return parser.parse_args()


def main() -> int:
    """Run the job; 0 finished, 1 failed for good, 3 something does not answer."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    values = vars(_arguments())
    request_id, pipeline_dir = values.pop("request_id"), values.pop("pipeline_dir")
    try:
        carry_out(request_id, pipeline_dir, Addresses(**values))
    except RetryableError as exc:
        LOG.error("%s", exc)
        return 3
    except PenstockError as exc:
        LOG.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
