"""Predictors by name, and the one that ranks best in cross-validation."""

import numpy as np
from jaxtyping import Float

from secateur.predictor.gaussian_process import fit_gaussian_process
from secateur.predictor.quality import Fit, Predictor, PredictorQuality, cross_validate
from secateur.predictor.trees import fit_trees

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
