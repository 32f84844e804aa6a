"""A Gaussian process with a little of the trees in it: smooth for the most part, and with steps where blocks go."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from secateur.predictor.conformal import CrossConformal
from secateur.predictor.gaussian_process import GaussianProcess, fit_gaussian_process
from secateur.predictor.protocol import Explanation, Interval, Pairs
from secateur.predictor.trees import fit_trees

# Of the trees; .2 to .4 were as good from few pairs, less is better from many (docs/log.md).
TREES_SHARE = 0.2

Numbers = TypeVar("Numbers", float, np.ndarray)
Rows = Float[np.ndarray, "candidates features"]


@dataclass(frozen=True)
class Blend:
    """Weighted mean of both predictions; the doubt is the process's, about the mean of both."""

    process: GaussianProcess
    trees: CrossConformal

    @property
    def out_of_fold(self) -> Float[np.ndarray, " pairs"]:
        return blended(self.process.out_of_fold, self.trees.out_of_fold)

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return blended(self.process.predict(features), self.trees.predict(features))

    def posterior(self, features: Rows) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        mean, deviation = self.process.posterior(features)
        return blended(mean, self.trees.predict(features)), deviation

    def interval(self, features: Rows, confidence: float = 0.9) -> Interval:
        alone, shift = (
            self.process.interval(features, confidence),
            self.predict(features) - self.process.predict(features),
        )
        return Interval(alone.low + shift, alone.high + shift)

    def explain(self, features: Rows) -> Explanation:
        process, trees = self.process.explain(features), self.trees.explain(features)
        return Explanation(blended(process.base, trees.base), blended(process.contributions, trees.contributions))


def fit_blend(pairs: Pairs, seed: int) -> Blend:
    """Fit both on measured pairs."""
    return Blend(fit_gaussian_process(pairs, seed), fit_trees(pairs, seed))


def blended(process: Numbers, trees: Numbers) -> Numbers:
    return (1 - TREES_SHARE) * process + TREES_SHARE * trees
