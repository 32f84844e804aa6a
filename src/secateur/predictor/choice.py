"""Predictors by name, and the one that ranks best in cross-validation."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from secateur.predictor.gaussian_process import fit_gaussian_process
from secateur.predictor.quality import PredictorQuality, cross_validate
from secateur.predictor.trees import fit_trees


@runtime_checkable
class Predictor(Protocol):
    """What ranks candidates."""

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Predict log KL in log nats per token; lower is better."""
        ...


# Features, KL in nats, sign of each feature's effect, seed -> predictor.
Fit = Callable[
    [Float[np.ndarray, "pairs features"], Float[np.ndarray, " pairs"], tuple[int, ...], int],
    Predictor,
]
PREDICTORS: dict[str, Fit] = {
    "gaussian_process": lambda features, kl, _monotone, _seed: fit_gaussian_process(features, kl),
    "trees": fit_trees,
}
AUTO = "auto"


def fit_predictor(
    name: str,
    features: Float[np.ndarray, "pairs features"],
    kl: Float[np.ndarray, " pairs"],
    parameters: Float[np.ndarray, " pairs"],
    monotone: tuple[int, ...],
    seed: int,
) -> tuple[Predictor, PredictorQuality]:
    """Fit a predictor on all pairs, and judge it on those it has not seen.

    Args:
        name: One of `PREDICTORS`, or `auto` for the one with the highest rank correlation in cross-validation, the
            first of equals.
        parameters: Decoder parameters of each architecture.
    """
    names = list(PREDICTORS) if name == AUTO else [name]
    judged = [cross_validate(each, PREDICTORS[each], features, kl, parameters, monotone, seed) for each in names]
    best = max(judged, key=lambda quality: quality.kendall_tau)
    return PREDICTORS[best.predictor](features, kl, monotone, seed), best
