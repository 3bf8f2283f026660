"""Trainers: from a feature matrix and labels to a fitted model.

A trainer is chosen by ``model.kind`` of pipeline.yaml. All of them train on float32, the type that
the model server sees, so that no value falls on another side of a split there.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from penstock_schemas.errors import ConfigError

Matrix = npt.NDArray[np.float32]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A fitted binary classifier.

    Parameters
    ----------
    estimator
        The scikit-learn pipeline.
    features
        Number of columns it was fitted on.
    params
        What the trainer was set to, for the tracking run.
    """

    estimator: Any
    features: int
    params: dict[str, str | int | float]

    def scores(self, matrix: Matrix) -> Vector:
        """Return the probability of class 1 per row, shape (n,)."""
        probabilities: Vector = self.estimator.predict_proba(matrix)[:, 1]
        return probabilities


class Trainer(ABC):
    """Fits one kind of model. Deterministic: the same data and seed give the same model.

    Parameters
    ----------
    seed
        Seed of everything random in it.
    """

    kind: str
    """Name in pipeline.yaml."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, matrix: Matrix, labels: Vector) -> FittedModel:
        """Fit a model.

        Parameters
        ----------
        matrix
            Features, shape (n, d), finite.
        labels
            0 or 1, shape (n,).

        Raises
        ------
        ConfigError
            If the labels are not of both classes, or the shapes differ.
        """
        if len(matrix) != len(labels):
            raise ConfigError(f"training: {len(matrix)} rows, but {len(labels)} labels")
        if set(np.unique(labels)) != {0.0, 1.0}:
            raise ConfigError("training: expected labels 0 and 1, both present")
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # has none

        estimator, params = self._estimator()
        # One thread: these matrices are small, and sums in a fixed order are reproducible.
        with warnings.catch_warnings(), threadpool_limits(1):
            # The number of passes is chosen: stopping there is no accident.
            warnings.simplefilter("ignore", ConvergenceWarning)
            estimator.fit(np.asarray(matrix, dtype=np.float32), labels.astype(np.int64))
        fitted = {"kind": self.kind, "seed": self._seed, **params}
        return FittedModel(estimator, matrix.shape[1], fitted)

    @abstractmethod
    def _estimator(self) -> tuple[Any, dict[str, str | int | float]]:
        """Return an unfitted estimator with ``predict_proba``, and its settings."""


class MlpTrainer(Trainer):
    """A small neural network; strongly regularised, since the rare class is small."""

    kind = "mlp"

    def _estimator(self) -> tuple[Any, dict[str, str | int | float]]:
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        network = MLPClassifier(
            hidden_layer_sizes=(64, 32),
            alpha=0.5,
            batch_size="auto",
            learning_rate_init=0.001,
            max_iter=12,
            random_state=self._seed,
        )
        params: dict[str, str | int | float] = {
            "hidden_layers": "64,32",
            "alpha": network.alpha,
            "learning_rate": network.learning_rate_init,
            "epochs": network.max_iter,
        }
        return make_pipeline(StandardScaler(), network), params


class LogisticTrainer(Trainer):
    """Logistic regression."""

    kind = "logistic"

    def _estimator(self) -> tuple[Any, dict[str, str | int | float]]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = LogisticRegression(C=0.1, max_iter=500, random_state=self._seed)
        return make_pipeline(StandardScaler(), model), {"inverse_regularisation": model.C}


_TRAINERS: Final[dict[str, Callable[[int], Trainer]]] = {
    MlpTrainer.kind: MlpTrainer,
    LogisticTrainer.kind: LogisticTrainer,
}


def make_trainer(kind: str, seed: int = 0) -> Trainer:
    """Return the trainer called ``kind``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if kind not in _TRAINERS:
        raise ConfigError(f"model.kind: expected one of {', '.join(_TRAINERS)}, got {kind!r}")
    return _TRAINERS[kind](seed)
