"""The paper's predictor: boosted trees for several z-scored targets at once, judged on a held-out split."""

from collections.abc import Mapping
from dataclasses import dataclass

import lightgbm
import numpy as np
from jaxtyping import Float
from pydantic import Field
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.model_selection import train_test_split

from secateur.schema import Record

# GBDT-NAS's settings, the parent of the paper, which states none of its own; 20 pairs per leaf need some hundred pairs,
# so smaller leaves where there are fewer.
PARAMETERS = {
    "objective": "regression",
    "num_leaves": 31,
    "learning_rate": 0.05,
    "feature_fraction": 0.9,
    "bagging_fraction": 0.8,
    "bagging_freq": 5,
    "min_data_in_bin": 1,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
}
NUM_TREES = 100
LEAF_PAIRS, OF_PAIRS = 20, 367
VALIDATION_SHARE = 0.3


class PaperQuality(Record):
    """How well the paper's predictor does on the pairs it was not fitted on, as the paper reports it.

    Errors are of z-scored targets, means over the targets. Reduction floats between the pairs, so much of R2 may be
    explained by that one number: `r2_reduction_only` is a line in it, fitted on the same pairs.
    """

    num_fitted: int
    num_validation: int
    mse: float
    rmse: float
    mae: float
    r2: float
    r2_reduction_only: float = Field(description="R2 of a line in the parameter reduction alone")


@dataclass(frozen=True)
class MultiOutputTrees:
    """One booster per target, on targets with mean 0 and variance 1 over the pairs it was fitted on."""

    targets: tuple[str, ...]
    means: Float[np.ndarray, " targets"]
    deviations: Float[np.ndarray, " targets"]
    boosters: tuple[lightgbm.Booster, ...]

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, "candidates targets"]:
        """Predict z-scores."""
        return np.column_stack([np.asarray(booster.predict(features)) for booster in self.boosters])

    def standardise(self, values: Float[np.ndarray, "pairs targets"]) -> Float[np.ndarray, "pairs targets"]:
        return (values - self.means) / self.deviations

    def importance(self) -> Float[np.ndarray, " features"]:
        """Give the share of all gain that each feature brought, mean over targets."""
        gains = np.array([booster.feature_importance("gain") for booster in self.boosters])
        return (gains / np.maximum(gains.sum(1, keepdims=True), 1e-30)).mean(0)


def fit_multi_output(
    features: Float[np.ndarray, "pairs features"],
    values: Mapping[str, Float[np.ndarray, " pairs"]],
    reduction: Float[np.ndarray, " pairs"],
    seed: int,
) -> tuple[MultiOutputTrees, PaperQuality]:
    """Fit on 7 of 10 pairs and judge on the other 3; the fitted one is what is used, as in the paper.

    Args:
        values: Per target, its measured values.
        reduction: Parameter reduction of each pair.

    Source:
        arXiv 2309.09507, section 3.2: multi-output GBDT on z-scored targets, split 7:3, MSE, RMSE, MAE and R2 on the
        validation pairs. Settings of the trees: GBDT-NAS (arXiv 2007.04785).
    """
    measured = np.column_stack(list(values.values()))
    fitted, held_out = train_test_split(np.arange(len(features)), test_size=VALIDATION_SHARE, random_state=seed)
    means = measured[fitted].mean(0)
    deviations = np.maximum(measured[fitted].std(0), 1e-12)
    scored = (measured - means) / deviations
    leaf = min(LEAF_PAIRS, max(3, round(LEAF_PAIRS * len(fitted) / OF_PAIRS)))
    parameters = {**PARAMETERS, "min_data_in_leaf": leaf, "seed": seed}
    boosters = tuple(
        lightgbm.train(parameters, lightgbm.Dataset(features[fitted], label=target), num_boost_round=NUM_TREES)
        for target in scored[fitted].T
    )
    trees = MultiOutputTrees(tuple(values), means, deviations, boosters)
    truth, predicted = scored[held_out], trees.predict(features[held_out])
    line = np.column_stack([np.ones(len(reduction)), reduction])
    slopes = np.linalg.lstsq(line[fitted], scored[fitted], rcond=None)[0]
    mse = float(mean_squared_error(truth, predicted))
    return trees, PaperQuality(
        num_fitted=len(fitted),
        num_validation=len(held_out),
        mse=mse,
        rmse=float(np.mean(np.sqrt(mean_squared_error(truth, predicted, multioutput="raw_values")))),
        mae=float(mean_absolute_error(truth, predicted)),
        r2=float(r2_score(truth, predicted)),
        r2_reduction_only=float(r2_score(truth, line[held_out] @ slopes)),
    )
