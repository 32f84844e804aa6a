"""Gradient-boosted trees on the residual of an additive model."""

from dataclasses import dataclass

import lightgbm
import numpy as np
from jaxtyping import Float

from secateur.predictor.additive import AdditiveModel, fit_additive_model
from secateur.predictor.conformal import CrossConformal, fit_cross_conformal
from secateur.predictor.protocol import Explanation, Pairs

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
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
    # One thread: sums in another order would give other trees, and the data are small.
    "num_threads": 1,
}
NUM_TREES = 250
Rows = Float[np.ndarray, "candidates features"]


@dataclass(frozen=True)
class TreeModel:
    """The additive model, and boosted trees that learn what it leaves."""

    base: AdditiveModel
    trees: lightgbm.Booster
    monotone: bool

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return self.base.predict(features) + np.asarray(self.trees.predict(features))

    def explain(self, features: Rows) -> Explanation:
        """Shapley values: of the trees by TreeSHAP, of the additive model exactly.

        Source:
            Lundberg et al., arXiv 1802.03888, as built into LightGBM.
        """
        shares = np.asarray(self.trees.predict(features, pred_contrib=True))
        base = self.base.explain(features)
        return Explanation(base.base + float(shares[0, -1]), base.contributions + shares[:, :-1])


def fit_tree_model(pairs: Pairs, seed: int, monotone: bool) -> TreeModel:
    """Fit trees on the residual of the additive model.

    Args:
        monotone: Hold every feature whose sign is known to it.
    """
    base = fit_additive_model(pairs)
    signs = {"monotone_constraints": list(pairs.layout.monotone), "monotone_constraints_method": "advanced"}
    trees = lightgbm.train(
        PARAMETERS | {"seed": seed} | (signs if monotone else {}),
        lightgbm.Dataset(pairs.features, label=pairs.target, init_score=base.predict(pairs.features)),
        num_boost_round=NUM_TREES,
    )
    return TreeModel(base, trees, monotone)


def fit_trees(pairs: Pairs, seed: int) -> CrossConformal:
    """Fit on measured pairs; monotone unless cross-validation says that this costs more than it gives.

    Source:
        LightGBM as in GBDT-NAS (arXiv 2007.04785), with smaller leaves, monotone constraints and a base.
    """
    constrained, free = (
        fit_cross_conformal(lambda seen, at, signs=monotone: fit_tree_model(seen, at, signs), pairs, seed)  # type: ignore[misc]
        for monotone in (True, False)
    )
    return constrained if np.mean(constrained.residuals**2) <= np.mean(free.residuals**2) else free
