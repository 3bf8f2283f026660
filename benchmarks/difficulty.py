"""How hard the simulated problem is: ``python benchmarks/difficulty.py pipelines/fraud``.

Prints, per seed and kind of drift, the AUC of the oracle, of the best single feature, and of models
trained before and after the drift.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from penstock_features.history import history
from penstock_monitoring.quality import auc
from penstock_pipelines.loader import LoadedPipeline, load_pipeline
from penstock_schemas.errors import ConfigError, PenstockError
from penstock_simulator.generators import Drift, make_generator
from penstock_training.trainers import FittedModel, Matrix, Vector, make_trainer
from penstock_training.training_set import HISTORY_END_MS, training_set


@dataclass(frozen=True, slots=True)
class Stream:
    """New events as the model sees them.

    Parameters
    ----------
    matrix
        Shape (n, d), float32.
    labels, oracle
        Shape (n,).
    """

    matrix: Matrix
    labels: Vector
    oracle: Vector


def simulated_stream(pipeline: LoadedPipeline, seed: int, n: int, drift: Drift | None) -> Stream:
    """Draw events that follow the training history and pass them through the stream's features.

    Raises
    ------
    ConfigError
        If the pipeline has no simulator.
    """
    name = pipeline.config.model.bootstrap.simulator
    if name is None or pipeline.config.feast is None:
        raise ConfigError(f"pipeline {pipeline.config.pipeline!r} has no simulator with profiles")
    generator = make_generator(name, seed)
    batch = generator.generate(n, HISTORY_END_MS, generator.events_per_s, drift)
    known = generator.profiles().set_index(pipeline.config.feast.entity).loc[batch.keys]
    online = {
        f.feast: known[f.feast.split(":")[1]].to_numpy(np.float64)
        for f in pipeline.config.features
        if f.feast
    }
    return Stream(history(pipeline.config, batch.columns, online), batch.labels, batch.oracle)


def best_single_feature(pipeline: LoadedPipeline, stream: Stream) -> tuple[str, float]:
    """Return the feature that separates best alone, in either direction, and its AUC."""
    each = [auc(stream.labels, stream.matrix[:, i]) for i in range(stream.matrix.shape[1])]
    strength = [max(a, 1.0 - a) for a in each]
    best = int(np.argmax(strength))
    return pipeline.config.feature_names[best], strength[best]


def describe(
    pipeline: LoadedPipeline, champion: FittedModel, seed: int, events: int
) -> list[dict[str, str | float]]:
    """Return one row before and one after concept drift.

    After it, the retrained model has seen the first half of the drifted events and is measured,
    like the champion, on the second.
    """
    rows: list[dict[str, str | float]] = []
    for drift in (None, Drift("concept", 0)):
        stream = simulated_stream(pipeline, seed, events, drift)
        half = slice(len(stream.labels) // 2, None)
        name, single = best_single_feature(pipeline, stream)
        row: dict[str, str | float] = {
            "seed": seed,
            "drift": "none" if drift is None else drift.kind,
            "fraud_share": float(stream.labels.mean()),
            "oracle_auc": auc(stream.labels[half], stream.oracle[half]),
            "best_feature": name,
            "best_feature_auc": single,
            "champion_auc": auc(stream.labels[half], champion.scores(stream.matrix[half])),
        }
        if drift is not None:
            trainer = make_trainer(pipeline.config.model.kind, seed)
            again = trainer.fit(stream.matrix[: half.start], stream.labels[: half.start])
            row["retrained_auc"] = auc(stream.labels[half], again.scores(stream.matrix[half]))
        rows.append(row)
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How hard the simulated problem is.")
    parser.add_argument("pipeline_dir", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--events", type=int, default=40_000)
    arguments = parser.parse_args()
    try:
        pipeline = load_pipeline(arguments.pipeline_dir)
        rows = training_set(pipeline)
        champion = make_trainer(
            pipeline.config.model.kind, pipeline.config.model.bootstrap.seed
        ).fit(rows.matrix, rows.labels)
        for seed in range(1, arguments.seeds + 1):
            for row in describe(pipeline, champion, seed, arguments.events):
                cells = (
                    f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()
                )
                sys.stdout.write("  ".join(cells) + "\n")
    except PenstockError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
