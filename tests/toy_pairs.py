"""Pairs whose truth is known: what predictors are held to, in a fraction of a second."""

import numpy as np

from secateur.predictor.protocol import Pairs
from secateur.space.encoding import FeatureLayout

NUM_MODULES = 8
RNG = np.random.default_rng(0)
SENSITIVITY = RNG.lognormal(sigma=0.8, size=NUM_MODULES)
# What is known before any measurement: off by a factor per module.
KNOWN = SENSITIVITY * RNG.lognormal(sigma=0.6, size=NUM_MODULES)
ERRORS = ("error.attention", "error.mlp", "error")
LAYOUT = FeatureLayout(
    names=(*(f"kept.{module}" for module in range(NUM_MODULES)), *ERRORS),
    monotone=(-1,) * NUM_MODULES + (1, 1, 1),
    blocks={"kept": slice(0, NUM_MODULES), "error_sums": slice(NUM_MODULES, NUM_MODULES + 3)},
    additive=(NUM_MODULES + 2,),
)


def encode(kept):
    errors = KNOWN * (1 - kept) ** 2
    attention, mlp = errors[:, ::2].sum(1), errors[:, 1::2].sum(1)
    return np.column_stack([kept, attention, mlp, attention + mlp])


def smooth(kept):
    """Losses that add up over modules but for one pair that makes up for each other."""
    cut = 1 - kept
    return (SENSITIVITY * cut**2).sum(1) + 2 * cut[:, 0] * cut[:, 1] + 0.05


def steps(kept):
    """Cliffs at irregular places: nothing that a smooth function gets right, and all that a tree needs."""
    return 0.1 + (np.array([8.0, 4.0, 2.0, 1.0]) * (kept[:, :4] < [0.31, 0.72, 0.55, 0.18])).sum(1)


def draw(count, seed, loss=smooth, noise=0.0):
    """Draw pairs, each kept ratio one of nine."""
    rng = np.random.default_rng([seed, 1])
    kept = rng.integers(0, 9, size=(count, NUM_MODULES)) / 8
    return Pairs(LAYOUT, encode(kept), loss(kept) * rng.lognormal(sigma=noise, size=count))


def parameters(pairs):
    return pairs.features[:, :NUM_MODULES].sum(1)
