"""What an accuracy predictor is: fitted on pairs, it gives a mean, a doubt, an interval and an explanation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from secateur.space.encoding import FeatureLayout

SMALLEST_LOSS = 1e-9


@dataclass(frozen=True)
class Pairs:
    """Architectures and what was measured for them, all inside the budget band.

    Attributes:
        layout: Says what the columns of `features` are.
        loss: KL divergence in nats, or another positive loss whose logarithm is to be predicted.
    """

    layout: FeatureLayout
    features: Float[np.ndarray, "pairs features"]
    loss: Float[np.ndarray, " pairs"]

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def target(self) -> Float[np.ndarray, " pairs"]:
        """Log loss."""
        return np.log(np.maximum(self.loss, SMALLEST_LOSS))

    def take(self, rows: Int[np.ndarray, " taken"]) -> "Pairs":
        return Pairs(self.layout, self.features[rows], self.loss[rows])


@dataclass(frozen=True)
class Interval:
    """Where the measured log loss will be, with the confidence that was asked for."""

    low: Float[np.ndarray, " candidates"]
    high: Float[np.ndarray, " candidates"]


@dataclass(frozen=True)
class Explanation:
    """How much of a prediction is due to each feature, in log nats: `base + contributions.sum(1)` is the prediction."""

    base: float
    contributions: Float[np.ndarray, "candidates features"]


@runtime_checkable
class Predictor(Protocol):
    """What ranks candidates. All is in log nats per token, lower is better.

    The contract, held by `tests/contracts/test_predictors.py`: a function of the pairs and the seed; finite for every
    row; on a loss that adds up over the modules 25 pairs rank better than chance and more pairs better still; the
    interval holds the mean, widens with the confidence, and covers what it says; explanations add up.
    """

    @property
    def out_of_fold(self) -> Float[np.ndarray, " pairs"]:
        """What is predicted for each pair by a fit that has not seen it: what the predictor is judged by."""
        ...

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Predict the log loss."""
        ...

    def posterior(
        self, features: Float[np.ndarray, "candidates features"]
    ) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        """Give the prediction and the standard deviation of a measurement about it, which is positive."""
        ...

    def interval(self, features: Float[np.ndarray, "candidates features"], confidence: float = 0.9) -> Interval:
        """Give an interval that holds the measured log loss with the given probability."""
        ...

    def explain(self, features: Float[np.ndarray, "candidates features"]) -> Explanation:
        """Share the prediction out among the features, by Shapley values or their equal for the model at hand."""
        ...


# Pairs, seed -> predictor.
Fit = Callable[[Pairs, int], Predictor]
