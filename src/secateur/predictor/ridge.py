"""Ridge regression on the kept ratios: the least that a fit can be."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.linear_model import RidgeCV

from secateur.predictor.conformal import CrossConformal, fit_cross_conformal
from secateur.predictor.protocol import Explanation, Pairs

# Of standardised features; the one that is best left-one-out is taken.
PENALTIES = np.logspace(-2, 4, 13)

Rows = Float[np.ndarray, "candidates features"]


@dataclass(frozen=True)
class RidgeModel:
    """A line in the standardised features."""

    middle: Float[np.ndarray, " features"]
    slopes: Float[np.ndarray, " features"]
    intercept: float

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return self.intercept + (features - self.middle) @ self.slopes

    def explain(self, features: Rows) -> Explanation:
        """Exact Shapley values: of a linear model, slope times distance from the mean."""
        return Explanation(self.intercept, (features - self.middle) * self.slopes)


def fit_ridge_model(pairs: Pairs, _seed: int) -> RidgeModel:
    middle, spread = pairs.features.mean(0), pairs.features.std(0)
    scale = np.where(spread > 0, spread, 1.0)
    ridge = RidgeCV(PENALTIES).fit((pairs.features - middle) / scale, pairs.target)
    return RidgeModel(middle, ridge.coef_ / scale, float(ridge.intercept_))


def fit_ridge(pairs: Pairs, seed: int) -> CrossConformal:
    """Fit on measured pairs; the penalty by leave-one-out."""
    return fit_cross_conformal(fit_ridge_model, pairs, seed)
