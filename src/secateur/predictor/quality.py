"""How well a predictor ranks, told apart from what anyone could say without it."""

from math import sqrt

import numpy as np
from jaxtyping import Float
from pydantic import Field
from scipy.stats import kendalltau

from secateur.schema import Record
from secateur.space.encoding import ERROR, FEATURE_VERSION, SENSITIVITY, FeatureLayout

# A rank correlation this many standard deviations above that of noise is one. The best of several predictors is
# judged, so two would be too few.
TRUSTED_DEVIATIONS = 2.5


class PredictorQuality(Record):
    """Rank correlation with measurements inside the budget band, out of fold."""

    predictor: str = Field(description="which one was judged")
    num_pairs: int = Field(description="measured architectures that it was judged on")
    kendall_tau: float = Field(description="of out-of-fold predictions")
    kendall_tau_reduction_only: float = Field(description="of a predictor that knows the parameter count alone")
    kendall_tau_error_only: float = Field(description="of the summed reconstruction error, which needs no measurement")
    kendall_tau_sensitivity_only: float | None = Field(
        None, description="of the best sum of measured sensitivities, which needs no pairs; null if none were measured"
    )
    considered: dict[str, float] = Field(default_factory=dict, description="of all predictors that were compared")
    features: tuple[str, ...] = Field((), description="blocks of features it learned from")
    feature_version: int = FEATURE_VERSION

    @property
    def trusted(self) -> bool:
        """Whether it ranks better than a predictor fed noise would by luck; else the search falls back."""
        return self.kendall_tau > TRUSTED_DEVIATIONS * deviation_of_noise(self.num_pairs)


def deviation_of_noise(num_pairs: int) -> float:
    """Standard deviation of Kendall's tau between unrelated rankings (Kendall 1938)."""
    return sqrt(2 * (2 * num_pairs + 5) / (9 * num_pairs * max(num_pairs - 1, 1)))


def judge(
    predicted: dict[str, Float[np.ndarray, " pairs"]],
    layout: FeatureLayout,
    features: Float[np.ndarray, "pairs features"],
    target: Float[np.ndarray, " pairs"],
    parameters: Float[np.ndarray, " pairs"],
) -> PredictorQuality:
    """Compare predictors by their out-of-fold predictions; the first of equals is the best.

    Args:
        predicted: Per predictor, what it says of pairs that it was not fitted on.
        parameters: Decoder parameters of each architecture.
    """
    taus = {name: rank_correlation(each, target) for name, each in predicted.items()}
    best = max(taus, key=lambda name: taus[name])
    columns = {name: features[:, place] for place, name in enumerate(layout.names)}
    sums = [rank_correlation(column, target) for name, column in columns.items() if name.startswith(SENSITIVITY)]
    return PredictorQuality(
        predictor=best,
        num_pairs=len(target),
        kendall_tau=taus[best],
        kendall_tau_reduction_only=rank_correlation(-parameters, target),
        kendall_tau_error_only=rank_correlation(columns[ERROR], target) if ERROR in columns else 0.0,
        kendall_tau_sensitivity_only=max(sums, default=None),
        considered=taus,
        features=tuple(layout.blocks),
    )


def rank_correlation(predicted: Float[np.ndarray, " pairs"], measured: Float[np.ndarray, " pairs"]) -> float:
    """Kendall's tau-b; 0 where one side is constant, since a constant ranks nothing."""
    tau = float(kendalltau(predicted, measured).statistic)
    return tau if np.isfinite(tau) else 0.0
