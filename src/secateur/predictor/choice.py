"""Predictors by name, and the one that ranks best in cross-validation."""

import numpy as np
from jaxtyping import Float

from secateur.predictor.additive import fit_additive
from secateur.predictor.blend import Blend, fit_blend
from secateur.predictor.computation_aware_predictor import fit_computation_aware_predictor
from secateur.predictor.conformal import CrossConformal
from secateur.predictor.gaussian_process import GaussianProcess, fit_gaussian_process
from secateur.predictor.protocol import Fit, Pairs, Predictor
from secateur.predictor.quality import PredictorQuality, judge
from secateur.predictor.ridge import fit_ridge
from secateur.predictor.trees import fit_trees

PREDICTORS: dict[str, Fit] = {
    "blend": fit_blend,
    "gaussian_process": fit_gaussian_process,
    "trees": fit_trees,
    "additive": fit_additive,
    "ridge": fit_ridge,
    "computation_aware": fit_computation_aware_predictor,
}
AUTO = "auto"
# What `auto` compares, the first of equals being taken; up to so many pairs exact processes, above the other kind.
CANDIDATES = ("blend", "gaussian_process", "trees", "additive")
EXACT_PAIRS = 1_000
CANDIDATES_OF_MANY = ("computation_aware", "trees", "additive")


def fit_predictor(
    name: str, pairs: Pairs, parameters: Float[np.ndarray, " pairs"], seed: int
) -> tuple[Predictor, PredictorQuality]:
    """Fit a predictor on all pairs, and judge it on those it has not seen.

    Args:
        name: One of `PREDICTORS`, or `auto` for the one with the highest rank correlation in cross-validation, the
            first of equals.
        parameters: Decoder parameters of each architecture.
    """
    several = CANDIDATES if len(pairs) <= EXACT_PAIRS else CANDIDATES_OF_MANY
    fitted: dict[str, Predictor] = {}
    # Parts before what is made of them.
    for each in reversed(several if name == AUTO else (name,)):
        process, trees = fitted.get("gaussian_process"), fitted.get("trees")
        if each == "blend" and isinstance(process, GaussianProcess) and isinstance(trees, CrossConformal):
            fitted[each] = Blend(process, trees)
        else:
            fitted[each] = PREDICTORS[each](pairs, seed)
    predicted = {each: fitted[each].out_of_fold for each in reversed(fitted)}
    quality = judge(predicted, pairs.layout, pairs.features, pairs.target, parameters)
    return fitted[quality.predictor], quality
