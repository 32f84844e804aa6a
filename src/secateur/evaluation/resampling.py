"""How sure a mean over windows is: the bootstrap, and a test of no difference."""

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

RESAMPLES = 1_000
FLIPS = 10_000
# Up to here all 2 ** n ways to flip signs are tried.
FEW = 12


def resampled_means(
    sums: Float[Tensor, " blocks"], weights: Shaped[Tensor, " blocks"], seed: int
) -> Float[np.ndarray, " resamples"]:
    """Give the weighted mean, sum of sums over sum of weights, of `RESAMPLES` draws of as many blocks.

    The same seed draws the same blocks, so that models on the same blocks are resampled alike.
    """
    values, counts = sums.double().numpy(), weights.double().numpy()
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return values[draws].sum(1) / counts[draws].sum(1)


def quantile_interval(values: Float[np.ndarray, " resamples"], confidence: float) -> tuple[float, float]:
    """Give the interval that leaves out as many on either side."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def sign_flip_p_value(differences: Float[Tensor, " blocks"], seed: int) -> float:
    """Give the p-value, two-sided, of "each block's difference might as well have the other sign".

    The share of ways to flip signs whose sum is at least as far from 0 as the one seen: of all ways where blocks are
    few, else of `FLIPS` random ones and the one seen.
    """
    values = differences.double().numpy()
    seen = abs(values.sum()) * (1 - 1e-12)
    if len(values) <= FEW:
        flips = np.array([[(way >> place) & 1 for place in range(len(values))] for way in range(2 ** len(values))])
        return float((np.abs((1 - 2 * flips) @ values) >= seen).mean())
    rng = np.random.default_rng(seed)
    as_far = 0
    for _ in range(FLIPS // 1_000):
        signs = 1 - 2 * rng.integers(2, size=(1_000, len(values)), dtype=np.int8)
        as_far += int((np.abs(signs.astype(np.float64) @ values) >= seen).sum())
    return (1 + as_far) / (1 + FLIPS)
