"""Gradient-boosted trees on the residual of an additive model."""

from dataclasses import dataclass

import lightgbm
import numpy as np
from jaxtyping import Float

# Settings that work from 25 pairs on: GBDT-NAS's own (31 leaves, 20 pairs per leaf) predict a constant there.
PARAMETERS = {
    "objective": "regression",
    "num_leaves": 8,
    "min_data_in_leaf": 3,
    "min_data_in_bin": 1,
    "learning_rate": 0.05,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "monotone_constraints_method": "advanced",
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    # One thread: sums in another order would give other trees, and the data are small.
    "num_threads": 1,
}
NUM_TREES = 250
SMALLEST_ERROR = 1e-9


@dataclass(frozen=True)
class TreePredictor:
    """Predicts log KL(dense || candidate).

    The base is a line in the logarithm of the summed reconstruction error (the last feature), fitted by least
    squares; boosted trees, monotone in every feature, learn what it leaves.
    """

    slope: float
    intercept: float
    trees: lightgbm.Booster

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Predict log KL in log nats per token; lower is better."""
        return _base(features, self.slope, self.intercept) + np.asarray(self.trees.predict(features))

    def lower_bound(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Give the prediction: trees do not know what they do not know."""
        return self.predict(features)


def fit_trees(
    features: Float[np.ndarray, "pairs features"],
    kl: Float[np.ndarray, " pairs"],
    monotone: tuple[int, ...],
    seed: int,
) -> TreePredictor:
    """Fit on measured pairs.

    Args:
        kl: Measured KL divergence in nats, positive.
        monotone: Sign of each feature's effect, as in `FeatureTable`.

    Source:
        LightGBM as in GBDT-NAS (arXiv 2007.04785), with smaller leaves and monotone constraints.
    """
    target = np.log(np.maximum(kl, SMALLEST_ERROR))
    logarithm = _log_error(features)
    spread = logarithm.std()
    slope = max(float(np.cov(logarithm, target, bias=True)[0, 1] / spread**2), 0.0) if spread > 0 else 0.0
    intercept = float(target.mean() - slope * logarithm.mean())
    base = _base(features, slope, intercept)
    trees = lightgbm.train(
        {**PARAMETERS, "seed": seed, "monotone_constraints": list(monotone)},
        lightgbm.Dataset(features, label=target, init_score=base),
        num_boost_round=NUM_TREES,
    )
    return TreePredictor(slope, intercept, trees)


def _log_error(features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
    return np.log(np.maximum(features[:, -1], SMALLEST_ERROR))


def _base(
    features: Float[np.ndarray, "candidates features"], slope: float, intercept: float
) -> Float[np.ndarray, " candidates"]:
    return intercept + slope * _log_error(features)
