"""The computation-aware process as a predictor: for more pairs than the exact process is fast with."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float
from sklearn.model_selection import KFold

from secateur.predictor.computation_aware import PROJECTION, ComputationAwareProcess, fit_computation_aware
from secateur.predictor.gaussian_process import BACKGROUND
from secateur.predictor.protocol import Explanation, Interval, Pairs
from secateur.predictor.shapley import feature_shapley

Rows = Float[np.ndarray, "candidates features"]


@dataclass(frozen=True)
class ComputationAwarePredictor:
    """Predicts log loss, with the doubt of what was and of what was not computed."""

    process: ComputationAwareProcess
    out_of_fold: Float[np.ndarray, " pairs"]
    background: Float[np.ndarray, "backgrounds features"]
    seed: int

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return self.process.predict(features)[0]

    def posterior(self, features: Rows) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        return self.process.predict(features)

    def interval(self, features: Rows, confidence: float = 0.9) -> Interval:
        mean, deviation = self.process.predict(features)
        half = NormalDist().inv_cdf((1 + confidence) / 2) * deviation
        return Interval(mean - half, mean + half)

    def explain(self, features: Rows) -> Explanation:
        shares = feature_shapley(self.predict, features, self.background, len(self.background), self.seed)
        return Explanation(float(self.predict(self.background).mean()), shares)


def fit_computation_aware_predictor(pairs: Pairs, seed: int, projection: int = PROJECTION) -> ComputationAwarePredictor:
    """Fit on measured pairs, and on halves of them to be judged by: it is made for thousands."""
    predicted = np.zeros(len(pairs))
    for seen, unseen in KFold(2, shuffle=True, random_state=seed).split(pairs.features):
        half = pairs.take(seen)
        process = fit_computation_aware(half.features, half.target, seed, projection)
        predicted[unseen] = process.predict(pairs.features[unseen])[0]
    process = fit_computation_aware(pairs.features, pairs.target, seed, projection)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:BACKGROUND]
    return ComputationAwarePredictor(process, predicted, pairs.features[chosen], seed)
