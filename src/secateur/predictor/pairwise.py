"""A second opinion for the top: which of two is better, learned from pairs of measurements."""

import lightgbm
import numpy as np
from jaxtyping import Float, Int

from secateur.predictor.protocol import Pairs

PARAMETERS = {
    "objective": "lambdarank",
    "num_leaves": 8,
    "min_data_in_leaf": 3,
    "min_data_in_bin": 1,
    "learning_rate": 0.05,
    "feature_fraction": 0.8,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
}
NUM_TREES = 150
# Grades of relevance, the best third of the pairs graded finely: the order among the rest decides nothing.
GRADES = 24


def top_first(
    pairs: Pairs,
    features: Float[np.ndarray, "candidates features"],
    predicted: Float[np.ndarray, " candidates"],
    seed: int,
) -> Int[np.ndarray, " candidates"]:
    """Order candidates by the mean of two ranks: the predictor's, and that of trees that learned to rank.

    Args:
        predicted: By the predictor, lower is better.

    Source:
        LambdaMART (Burges 2010) as LightGBM has it, all measurements being one query.
    """
    places = np.argsort(np.argsort(pairs.loss, kind="stable"), kind="stable")
    best = max(len(pairs) // 3, 1)
    grades = np.maximum(0, np.ceil(GRADES * (1 - places / best))).astype(int)
    data = lightgbm.Dataset(pairs.features, label=grades, group=[len(pairs)])
    parameters = PARAMETERS | {"seed": seed, "label_gain": list(range(GRADES + 1))}
    ranker = lightgbm.train(parameters, data, num_boost_round=NUM_TREES)
    second = np.argsort(np.argsort(-np.asarray(ranker.predict(features)), kind="stable"), kind="stable")
    first = np.argsort(np.argsort(predicted, kind="stable"), kind="stable")
    return np.argsort(first + second, kind="stable")
