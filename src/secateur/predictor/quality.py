"""How well a predictor ranks, told apart from what anyone could say without it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau
from sklearn.model_selection import KFold

from secateur.schema import Record

NUM_FOLDS = 5


@runtime_checkable
class Predictor(Protocol):
    """What ranks candidates."""

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Predict log KL in log nats per token; lower is better."""
        ...

    def lower_bound(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Say how low log KL may be where the predictor knows little; the prediction where it cannot tell."""
        ...


# Features, KL in nats, sign of each feature's effect, seed -> predictor.
Fit = Callable[
    [Float[np.ndarray, "pairs features"], Float[np.ndarray, " pairs"], tuple[int, ...], int],
    Predictor,
]


class PredictorQuality(Record):
    """Rank correlation with measurements inside the budget band.

    Attributes:
        predictor: Which one was judged.
        num_pairs: Measured architectures that it was judged on.
        kendall_tau: Of out-of-fold predictions.
        kendall_tau_reduction_only: Of a predictor that knows the parameter count alone: larger is better.
        kendall_tau_error_only: Of the summed reconstruction error, which needs no measurement.
    """

    predictor: str
    num_pairs: int
    kendall_tau: float
    kendall_tau_reduction_only: float
    kendall_tau_error_only: float


def cross_validate(
    name: str,
    fit: Fit,
    features: Float[np.ndarray, "pairs features"],
    kl: Float[np.ndarray, " pairs"],
    parameters: Float[np.ndarray, " pairs"],
    monotone: tuple[int, ...],
    seed: int,
) -> PredictorQuality:
    """Judge a predictor on pairs that it was not fitted on, all of them inside the budget band.

    Args:
        parameters: Decoder parameters of each architecture.
    """
    predicted = np.zeros(len(kl))
    for fitted, held_out in KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(features):
        predictor = fit(features[fitted], kl[fitted], monotone, seed)
        predicted[held_out] = predictor.predict(features[held_out])
    return PredictorQuality(
        predictor=name,
        num_pairs=len(kl),
        kendall_tau=rank_correlation(predicted, kl),
        kendall_tau_reduction_only=rank_correlation(-parameters, kl),
        kendall_tau_error_only=rank_correlation(features[:, -1], kl),
    )


def rank_correlation(predicted: Float[np.ndarray, " pairs"], measured: Float[np.ndarray, " pairs"]) -> float:
    """Kendall's tau-b; 0 where one side is constant, since a constant ranks nothing."""
    tau = float(kendalltau(predicted, measured).statistic)
    return tau if np.isfinite(tau) else 0.0
