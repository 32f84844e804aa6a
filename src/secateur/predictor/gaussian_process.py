"""An exact Gaussian process: what ranks best where there are few pairs."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, WhiteKernel
from sklearn.model_selection import KFold

from secateur.predictor.kernels import BlocksKernel, CurvesKernel
from secateur.predictor.protocol import Explanation, Interval, Pairs
from secateur.predictor.shapley import feature_shapley
from secateur.space.encoding import FeatureLayout

# Of standardised features and targets, lengths in units of the root of a block's number of columns: two architectures
# drawn at random are about 1.4 apart. A process much shorter than that would learn noise by heart and call it signal.
VARIANCE = (1e-3, 1e3)
LENGTH = (0.5, 100.0)
# Of the noise's variance in units of the targets': the least is this over the number of pairs. The likelihood of few
# pairs would have none, and then the process is sure of itself where it has no reason to be (docs/log.md).
LEAST_NOISE, MOST_NOISE = 0.5, 1.0
# Hyper-parameters are drawn towards 1 by a normal prior on their logarithms with this precision: with 25 pairs the
# marginal likelihood alone may take one of many that explain them as well.
PRIOR_PRECISION = 0.2
# More, or a second start, moved no rank correlation on recorded pairs (docs/log.md).
STEPS, FEW_STEPS = 25, 6
NUM_FOLDS, MANY_PAIRS = 5, 128
# Of the smallest loss, what is taken off before the logarithm.
FLOOR_SHARE = 0.5
# Pairs that stand for "not known" in an explanation, and orders that it averages over: each pair as often as any other.
BACKGROUND = 32

Rows = Float[np.ndarray, "candidates features"]
Objective = Callable[..., tuple[float, Float[np.ndarray, " hyperparameters"]]]


@dataclass(frozen=True)
class GaussianProcess:
    """Predicts log loss: the posterior mean, with the posterior's doubt.

    The prior is a sum of one curve per module and of a function of everything, whose length scales are the blocks' own.
    The process is of log(loss - floor): among good architectures losses differ by little of what all of them have, and
    a logarithm that starts below them spreads the good and draws the bad together.

    Attributes:
        out_of_fold: Predictions for the pairs by processes that have not seen them.
        misses: By how many of their own standard deviations those are off; ascending.
    """

    middle: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    floor: float
    process: GaussianProcessRegressor
    out_of_fold: Float[np.ndarray, " pairs"]
    misses: Float[np.ndarray, " pairs"]
    background: Float[np.ndarray, "backgrounds features"]
    seed: int

    def predict(self, features: Rows) -> Float[np.ndarray, " candidates"]:
        return _log_loss(self.process.predict(self._scaled(features)), self.floor)

    def posterior(self, features: Rows) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        """Deviation of a measurement: of the function's posterior, and the noise.

        Where leaving pairs out shows that the process is too sure of itself, it is widened by as much.
        """
        mean, deviation = self.process.predict(self._scaled(features), return_std=True)
        widened = deviation * max(1.0, float(np.sqrt(np.mean(self.misses**2))))
        above = np.exp(mean)
        return _log_loss(mean, self.floor), np.asarray(widened * above / (above + self.floor))

    def interval(self, features: Rows, confidence: float = 0.9) -> Interval:
        """As many standard deviations to each side as hold that share of the pairs, each left out once.

        No fewer than of a normal variable: few pairs may all have been predicted well by luck.

        Source:
            Cross-conformal with the process's own deviation as the scale of an error (Barber et al., arXiv 1905.02928;
            Lei et al., arXiv 1604.04173, section 5.2).
        """
        mean, deviation = self.process.predict(self._scaled(features), return_std=True)
        place = min(math.ceil(confidence * (len(self.misses) + 1)), len(self.misses)) - 1
        normal = NormalDist().inv_cdf((1 + confidence) / 2)
        half = max(float(self.misses[place]), normal) * deviation
        return Interval(_log_loss(mean - half, self.floor), _log_loss(mean + half, self.floor))

    def explain(self, features: Rows) -> Explanation:
        shares = feature_shapley(self.predict, features, self.background, len(self.background), self.seed)
        return Explanation(float(self.predict(self.background).mean()), shares)

    def _scaled(self, features: Rows) -> Rows:
        return (features - self.middle) / self.scale


def fit_gaussian_process(pairs: Pairs, seed: int) -> GaussianProcess:
    """Fit on measured pairs; variances, length scales and noise by marginal likelihood.

    Source:
        Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4 and 5; the kernels'
        sources are in kernels.py.
    """
    middle, spread = pairs.features.mean(0), pairs.features.std(0)
    scale = np.where(spread > 1e-12, spread, 1.0)
    floor = FLOOR_SHARE * float(np.exp(pairs.target.min()))
    scaled, target = (pairs.features - middle) / scale, np.log(np.exp(pairs.target) - floor)
    process = _fitted(_kernel(pairs.layout, len(pairs)), scaled, target, partial(_most_likely, steps=STEPS))
    mean, deviation = _out_of_fold(process, scaled, target, seed)
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:BACKGROUND]
    return GaussianProcess(
        middle=middle,
        scale=scale,
        floor=floor,
        process=process,
        out_of_fold=_log_loss(mean, floor),
        misses=np.sort(np.abs(mean - target) / deviation),
        background=pairs.features[chosen],
        seed=seed,
    )


def _log_loss(above_floor: Float[np.ndarray, " candidates"], floor: float) -> Float[np.ndarray, " candidates"]:
    return np.asarray(np.logaddexp(above_floor, np.log(floor)))


def _out_of_fold(
    process: GaussianProcessRegressor, scaled: Rows, target: Float[np.ndarray, " pairs"], seed: int
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Predict every pair, mean and deviation, by a process that has not seen it.

    With few pairs hyper-parameters are surest of themselves and furthest off, so there they are fitted again without
    each fold, from where they were; with many they hardly move.
    """
    mean, deviation = np.zeros(len(target)), np.zeros(len(target))
    optimizer = partial(_most_likely, steps=FEW_STEPS) if len(target) < MANY_PAIRS else None
    for seen, unseen in KFold(min(NUM_FOLDS, len(target)), shuffle=True, random_state=seed).split(scaled):
        fold = _fitted(process.kernel_, scaled[seen], target[seen], optimizer)
        mean[unseen], deviation[unseen] = fold.predict(scaled[unseen], return_std=True)
    return mean, deviation


def _fitted(
    kernel: Kernel, scaled: Rows, target: Float[np.ndarray, " pairs"], optimizer: Callable[..., Any] | None
) -> GaussianProcessRegressor:
    process = GaussianProcessRegressor(kernel, optimizer=optimizer, normalize_y=True)
    with warnings.catch_warnings():
        # A hyper-parameter at its bound is an answer: noise of a measurement that has none, for one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(scaled, target)


def _kernel(layout: FeatureLayout, num_pairs: int) -> Any:
    columns = np.arange(len(layout.names))
    sums = [tuple(columns[place].tolist()) for name, place in layout.blocks.items() if name in SUMMED]
    others = [tuple(columns[place].tolist()) for name, place in layout.blocks.items() if name not in SUMMED]
    # Sums are few columns that say the same in different ways: they share a length.
    blocks = tuple([*others, tuple(column for block in sums for column in block)] if sums else others)
    curves = CurvesKernel(tuple(columns[layout.curves].tolist()), 1.0, LENGTH)
    together = BlocksKernel(blocks, np.ones(len(blocks)), LENGTH)
    noise = WhiteKernel(max(0.1, LEAST_NOISE / num_pairs), (LEAST_NOISE / num_pairs, MOST_NOISE))
    return ConstantKernel(1.0, VARIANCE) * curves + ConstantKernel(1.0, VARIANCE) * together + noise


SUMMED = ("error_sums", "sensitivity_sums", "costs")


def _most_likely(
    objective: Objective,
    start: Float[np.ndarray, " hyperparameters"],
    bounds: Float[np.ndarray, "hyperparameters 2"],
    steps: int,
) -> tuple[Float[np.ndarray, " hyperparameters"], float]:
    """Find the most likely hyper-parameters under their prior; the last is the noise, which has none."""

    def penalised(theta: Float[np.ndarray, " hyperparameters"]) -> tuple[float, Float[np.ndarray, " hyperparameters"]]:
        value, gradient = objective(theta, eval_gradient=True)
        pull = np.append(theta[:-1], 0.0)
        return value + PRIOR_PRECISION / 2 * float(pull @ pull), gradient + PRIOR_PRECISION * pull

    found = minimize(penalised, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": steps})
    return found.x, float(found.fun)
