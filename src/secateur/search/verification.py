"""Which measured architecture is made and measured next, so that a drop holds for sure and the model is small."""

import math
from collections.abc import Callable, Sequence

from pydantic import Field

from secateur.schema import Record
from secateur.space.architecture import Architecture

# A smaller model is worth a verification if it saves so much of the dense model's size.
LEAST_GAIN = 0.002
# While nothing holds, what is tried next must promise so much more than the last, as a log ratio of drops.
STEP_BACK = math.log(1.1)


class Predicted(Record):
    """What the predictor said of a bound before it was measured, at 90 %."""

    drop: float
    low: float
    high: float


class Prospect(Record):
    """An architecture that may be the result."""

    architecture: Architecture
    share: float = Field(description="of the dense model's size, in what is made small")
    searched: float = Field(description="upper bound of the drop as the search measured it")
    predicted: Predicted | None = Field(description="null for what was proposed without a predictor")


class Verification(Record):
    """A prospect that was made as the result would be, and measured on the selection set."""

    prospect: Prospect
    drop: float = Field(description="mean over windows or questions")
    bound: float = Field(description="what as many windows or questions as the evaluation has will stay below")
    held: bool = Field(description="the bound is within the limit")

    def written(self, unit: Callable[[float], float]) -> "Verification":
        """Give the same with every drop in another unit."""
        said = self.prospect.predicted
        predicted = said and Predicted(drop=unit(said.drop), low=unit(said.low), high=unit(said.high))
        changes = {"searched": unit(self.prospect.searched), "predicted": predicted}
        prospect = self.prospect.model_copy(update=changes)
        return self.model_copy(update={"prospect": prospect, "drop": unit(self.drop), "bound": unit(self.bound)})


def smallest_held(verified: Sequence[Verification]) -> Verification | None:
    """Give what would be the result so far."""
    held = [each for each in verified if each.held]
    return min(held, key=lambda each: (each.prospect.share, each.bound), default=None)


def next_to_verify(
    prospects: Sequence[Prospect], verified: Sequence[Verification], limit: float, most: int
) -> Prospect | None:
    """Give the smallest prospect that is expected to hold, smaller than what holds already.

    The search measures with less calibration text than the result is made with, so the two differ by a factor that
    hardly depends on the architecture. It is taken from what has been verified (`correction`). Without any there is
    none to take, and none is needed: the bound is pessimistic.

    Args:
        most: Verifications in all.

    Returns:
        None when there is nothing left to gain, or to spend.
    """
    if len(verified) >= most:
        return None
    best, tried = smallest_held(verified), {each.prospect.architecture.key for each in verified}
    left = [each for each in prospects if each.architecture.key not in tried and each.share < 1]
    factor = correction(verified)
    if best is not None:
        smaller = [each for each in left if each.share <= best.prospect.share - LEAST_GAIN]
        return _smallest_within(smaller, factor, limit)
    safe = _smallest_within(left, factor + STEP_BACK * max(len(verified) - 1, 0), limit)
    # Where nothing promises to hold, what loses least.
    return safe or min(left, key=lambda each: (each.searched, each.share), default=None)


def correction(verified: Sequence[Verification]) -> float:
    """Give the logarithm of the factor from a bound in the search to a verified one.

    It is the mean, or the worst where one has failed that the first had promised would hold.
    """
    factors = [math.log(max(each.bound, 1e-12) / each.prospect.searched) for each in verified]
    if not factors:
        return 0.0
    return sum(factors) / len(factors) if all(each.held for each in verified[1:]) else max(factors)


def _smallest_within(prospects: Sequence[Prospect], factor: float, limit: float) -> Prospect | None:
    holding = [each for each in prospects if math.log(each.searched) + factor <= math.log(limit)]
    return min(holding, key=lambda each: (each.share, each.searched), default=None)
