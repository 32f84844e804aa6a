"""What a fitted predictor said, kept: of pairs it had not seen, of candidates before they were measured, and why."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from secateur.predictor.protocol import Interval, Predictor
from secateur.schema import Record
from secateur.space.candidate import Measurement

KL = "KL to the dense model, nats per token"
# The confidence of every interval that a search asks for.
CONFIDENCE = 0.9

Rows = Int[np.ndarray, "candidates modules"]


class Foretold(Record):
    """What the predictor said of an architecture before it was measured, in the unit of what it predicts."""

    architecture: str = Field(description="key of the architecture (`run.db`)")
    predicted: float
    low: float = Field(description="of the 90 % interval")
    high: float = Field(description="of the 90 % interval")
    measured: float | None = Field(None, description="what came of it; null if measuring failed")


class OutOfFold(Record):
    """What is said of a pair by a fit that has not seen it."""

    architecture: str = Field(description="key of the architecture (`run.db`)")
    predicted: float
    measured: float


class FitRecord(Record):
    """The latest fit of one predictor of a search, as cross-validation judged it."""

    round: int
    predictor: str = Field(description="which one was taken")
    quantity: str = Field(description="what is predicted, with its unit")
    reconstructed: bool = Field(description="of measurements made after sequential reconstruction")
    pairs: tuple[OutOfFold, ...]

    @property
    def stage(self) -> str:
        """Name under which a run keeps it: the latest of a kind replaces the one before."""
        return f"fit {'reconstructed' if self.reconstructed else 'sliced'}: {self.quantity}"


@dataclass(frozen=True)
class Fitted:
    """The predictor that a search ended with, as a function of levels.

    Attributes:
        predict: Gives the logarithm of what is predicted; the mean over targets where there are several.
        levels: Architectures that it was fitted on, best first.
        quantity: What is predicted, with its unit.
    """

    predict: Callable[[Rows], Float[np.ndarray, " candidates"]]
    levels: Rows
    quantity: str = KL


def foretold(
    keys: Sequence[str],
    mean: Float[np.ndarray, " candidates"],
    interval: Interval,
    measured: Mapping[str, float],
    unit: float = 1.0,
) -> tuple[Foretold, ...]:
    """Put log predictions beside what was measured.

    Args:
        measured: By key, in the unit of what is predicted; without those that failed.
        unit: What a log prediction of 0 stands for.
    """
    return tuple(
        Foretold(
            architecture=key,
            predicted=unit * math.exp(middle),
            low=unit * math.exp(low),
            high=unit * math.exp(high),
            measured=measured.get(key),
        )
        for key, middle, low, high in zip(
            keys, mean.tolist(), interval.low.tolist(), interval.high.tolist(), strict=True
        )
    )


def fit_record(
    number: int,
    name: str,
    predictor: Predictor,
    pairs: Sequence[Measurement],
    measured: Float[np.ndarray, " pairs"],
    *,
    reconstructed: bool,
    quantity: str = KL,
    unit: float = 1.0,
) -> FitRecord:
    """Keep what a fit says of each of its pairs without having seen it.

    Args:
        pairs: In the order in which it was fitted on them.
        measured: Of each, what was predicted, in its unit.
        unit: What a log prediction of 0 stands for.
    """
    predicted = unit * np.exp(predictor.out_of_fold)
    return FitRecord(
        round=number,
        predictor=name,
        quantity=quantity,
        reconstructed=reconstructed,
        pairs=tuple(
            OutOfFold(architecture=pair.architecture.key, predicted=said, measured=value)
            for pair, said, value in zip(pairs, predicted.tolist(), measured.tolist(), strict=True)
        ),
    )
