"""CV+: honest intervals for models that do not know what they do not know."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import KFold

from secateur.predictor.protocol import Explanation, Interval, Pairs

NUM_FOLDS = 5
# Keeps a doubt positive where a model is right about everything.
SMALLEST_DEVIATION = 1e-6

Rows = Float[np.ndarray, "candidates features"]


@runtime_checkable
class Model(Protocol):
    """A prediction and its explanation, without a doubt."""

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]: ...

    def explain(self, features: Rows) -> Explanation: ...


@dataclass(frozen=True)
class CrossConformal:
    """A model fitted on all pairs, with the models of a cross-validation to say how far it is off.

    Attributes:
        folds: Models fitted without one fold of the pairs each.
        fold_of: Per pair, the model that has not seen it.
        out_of_fold: Per pair, what that model predicts.
        residuals: Per pair, that model's absolute error.

    Source:
        CV+ (Barber, Candes, Ramdas, Tibshirani, arXiv 1905.02928, eq. 11): the interval at x is from the
        floor(alpha (n + 1))-th smallest of mu_-k(i)(x) - R_i to the ceil((1 - alpha)(n + 1))-th smallest of
        mu_-k(i)(x) + R_i, i over the n pairs, alpha being what is to be missed: R is absolute, so each side counts the
        errors of both. Where n is too small for the rank it is the first or last.
    """

    model: Model
    folds: tuple[Model, ...]
    fold_of: Int[np.ndarray, " pairs"]
    out_of_fold: Float[np.ndarray, " pairs"]
    residuals: Float[np.ndarray, " pairs"]

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return self.model.predict(features)

    def posterior(self, features: Rows) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        """Deviation: root of the mean square error out of fold, and of how far the folds' models disagree about it."""
        spread = np.var(self._each(features), axis=0)
        return self.predict(features), np.maximum(np.sqrt(spread + np.mean(self.residuals**2)), SMALLEST_DEVIATION)

    def interval(self, features: Rows, confidence: float = 0.9) -> Interval:
        predicted = self._each(features)[self.fold_of]
        count, missed = len(self.residuals), 1 - confidence
        low = max(math.floor(missed * (count + 1)), 1) - 1
        high = min(math.ceil((1 - missed) * (count + 1)), count) - 1
        mean = self.predict(features)
        lowest = np.partition(predicted - self.residuals[:, None], low, axis=0)[low]
        highest = np.partition(predicted + self.residuals[:, None], high, axis=0)[high]
        return Interval(np.minimum(lowest, mean), np.maximum(highest, mean))

    def explain(self, features: Rows) -> Explanation:
        return self.model.explain(features)

    def _each(self, features: Rows) -> Float[np.ndarray, "folds candidates"]:
        return np.stack([model.predict(features) for model in self.folds])


def fit_cross_conformal(fit: Callable[[Pairs, int], Model], pairs: Pairs, seed: int) -> CrossConformal:
    """Fit a model on all pairs, and once more without each fold."""
    fold_of, predicted = np.zeros(len(pairs), dtype=int), np.zeros(len(pairs))
    folds = []
    split = KFold(min(NUM_FOLDS, len(pairs)), shuffle=True, random_state=seed).split(pairs.features)
    for number, (seen, held_out) in enumerate(split):
        model = fit(pairs.take(seen), seed)
        fold_of[held_out] = number
        predicted[held_out] = model.predict(pairs.features[held_out])
        folds.append(model)
    residuals = np.abs(predicted - pairs.target)
    return CrossConformal(fit(pairs, seed), tuple(folds), fold_of, predicted, residuals)
