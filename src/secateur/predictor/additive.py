"""The additive model: estimates that add up over the modules, scaled to what was measured.

Everything else must earn its keep against it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from secateur.predictor.conformal import CrossConformal, fit_cross_conformal
from secateur.predictor.protocol import SMALLEST_LOSS, Explanation, Pairs

Rows = Float[np.ndarray, "candidates features"]


@dataclass(frozen=True)
class AdditiveModel:
    """Log loss = intercept + sum over the additive columns of slope * log column, with slopes that are not negative."""

    columns: tuple[int, ...]
    num_features: int
    middle: Float[np.ndarray, " columns"]
    slopes: Float[np.ndarray, " columns"]
    intercept: float

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return self.intercept + self.parts(features).sum(1)

    def explain(self, features: Rows) -> Explanation:
        contributions = np.zeros((len(features), self.num_features))
        contributions[:, list(self.columns)] = self.parts(features)
        return Explanation(self.intercept, contributions)

    def parts(self, features: Rows) -> Float[np.ndarray, "candidates columns"]:
        return (_logarithms(features, self.columns) - self.middle) * self.slopes


def fit_additive_model(pairs: Pairs) -> AdditiveModel:
    """Fit by non-negative least squares: a larger estimate of the loss never predicts a smaller loss."""
    logs = _logarithms(pairs.features, pairs.layout.additive)
    middle, target = logs.mean(0), pairs.target
    slopes = nnls(logs - middle, target - target.mean())[0] if logs.shape[1] else np.zeros(0)
    return AdditiveModel(pairs.layout.additive, pairs.features.shape[1], middle, slopes, float(target.mean()))


def _logarithms(features: Rows, columns: tuple[int, ...]) -> Float[np.ndarray, "candidates columns"]:
    return np.log(np.maximum(features[:, list(columns)], SMALLEST_LOSS))


def fit_additive(pairs: Pairs, seed: int) -> CrossConformal:
    """Fit on measured pairs.

    Source:
        Puzzle (arXiv 2411.19146) adds up losses of modules that were measured one by one; the slopes, and the use of
        reconstruction errors, which need no measurement, are ours.
    """
    return fit_cross_conformal(lambda seen, _seed: fit_additive_model(seen), pairs, seed)
