"""Kernels that know what the columns are: curves of single modules, and blocks that share a length scale."""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel, NormalizedKernelMixin, StationaryKernelMixin

ROOT_5 = np.sqrt(5.0)
Rows = Float[np.ndarray, "rows features"]
Others = Float[np.ndarray, "others features"]


def matern(scaled: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Matern 5/2 of distances in units of the length scale."""
    root = ROOT_5 * scaled
    return (1 + root + root**2 / 3) * np.exp(-root)


def _slope(scaled: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Derivative of `matern` by the logarithm of one length, over the share that it has of the squared distance."""
    root = ROOT_5 * scaled
    return (1 + root) * np.exp(-root) * 5 / 3


class CurvesKernel(StationaryKernelMixin, NormalizedKernelMixin, Kernel):
    """Mean over columns of a Matern 5/2 kernel in that column alone: a sum of one curve per module.

    Source:
        Additive Gaussian processes of first order (Duvenaud, Nickisch, Rasmussen, arXiv 1112.4394), one length scale
        for all columns, which are standardised.
    """

    def __init__(
        self, columns: tuple[int, ...], length: float = 1.0, length_bounds: tuple[float, float] = (1e-1, 1e2)
    ) -> None:
        self.columns = columns
        self.length = length
        self.length_bounds = length_bounds

    @property
    def hyperparameter_length(self) -> Hyperparameter:
        return Hyperparameter("length", "numeric", self.length_bounds)

    def __call__(self, X: Rows, Y: Others | None = None, eval_gradient: bool = False) -> Any:
        other = X if Y is None else Y
        total, slope = np.zeros((len(X), len(other))), np.zeros((len(X), len(other)))
        for column in self.columns:
            # A module has few widths, so many rows have the same entry.
            values, places = np.unique(X[:, column], return_inverse=True)
            scaled = np.abs(values[:, None] - other[None, :, column]) / self.length
            total += matern(scaled)[places]
            if eval_gradient:
                slope += (scaled**2 * _slope(scaled))[places]
        count = max(len(self.columns), 1)
        return (total / count, (slope / count)[:, :, None]) if eval_gradient else total / count


class BlocksKernel(StationaryKernelMixin, NormalizedKernelMixin, Kernel):
    """Matern 5/2 with one length scale per block of columns.

    One for every column has as many to learn as there are modules, and ranked worse from as many pairs as a search has;
    one for all cannot tell what a block is worth (docs/log.md).

    Attributes:
        blocks: Columns of each block; distances inside a block are divided by the root of their number.
        lengths: One per block.
    """

    def __init__(
        self,
        blocks: tuple[tuple[int, ...], ...],
        lengths: Float[np.ndarray, " blocks"] | float,
        length_bounds: tuple[float, float] = (1e-1, 1e2),
    ) -> None:
        self.blocks = blocks
        self.lengths = lengths
        self.length_bounds = length_bounds

    @property
    def hyperparameter_lengths(self) -> Hyperparameter:
        return Hyperparameter("lengths", "numeric", self.length_bounds, len(self.blocks))

    def __call__(self, X: Rows, Y: Others | None = None, eval_gradient: bool = False) -> Any:
        other = X if Y is None else Y
        lengths = np.atleast_1d(self.lengths)
        parts = [
            _squared_distances(X[:, list(block)], other[:, list(block)]) / (len(block) * length**2)
            for block, length in zip(self.blocks, lengths, strict=True)
        ]
        scaled = np.sqrt(np.sum(parts, axis=0))
        if not eval_gradient:
            return matern(scaled)
        slope = _slope(scaled)
        return matern(scaled), np.stack([part * slope for part in parts], axis=-1)


def _squared_distances(
    one: Float[np.ndarray, "rows columns"], other: Float[np.ndarray, "others columns"]
) -> Float[np.ndarray, "rows others"]:
    squared = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :] - 2 * one @ other.T
    return np.maximum(squared, 0.0)
