"""Least squares: what stays in a module is refitted to make up for what goes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.pruning.importance import damped, matrix_square_root


@dataclass(frozen=True)
class Refit:
    """Output projection of one width, and the error it leaves.

    Attributes:
        weight: [hidden, kept columns], as `nn.Linear` stores it.
        error: 1/2 E[(g . dy)^2] with g and dy taken as independent, in nats per token: what the module's output change
            costs, were it the only one.
    """

    weight: Float[Tensor, "hidden kept"]
    error: float


class Refitter:
    """Refits one output projection for any prefix of its columns from one factorisation.

    With H the damped Gram matrix of the projection's input in the module's order, H = L L^T, and W as
    [columns, hidden], the least-squares solution for the kept prefix S of the columns, P the rest, is

        W_S + (H_SS^-1 H_SP) W_P,    H_SS^-1 H_SP = L_SS^-T L_PS^T

    and what it leaves is `||L_PP^T W_P||^2`: one triangular solve per width.

    Source:
        The normal equations; the update is that of OSSCAR and ZipLM. Errors are weighted by M (see
        `ModuleStatistics`), in place of the plain square norm.
    """

    def __init__(
        self,
        gram: Float[Tensor, "columns columns"],
        output_weight: Float[Tensor, "hidden columns"],
        gradient_moment: Float[Tensor, "hidden hidden"],
        ridge: float,
    ) -> None:
        """Gram matrix and weight must already be in the module's order."""
        self._gram = damped(gram, ridge)
        self._factor = torch.linalg.cholesky(self._gram)
        self._weight = output_weight.double().T
        self._metric_weight = self._weight @ matrix_square_root(gradient_moment)
        self._dtype = output_weight.dtype

    def refit(self, kept: int) -> Refit:
        """Keep the first `kept` columns and refit them."""
        removed = self._weight[kept:]
        moved = torch.linalg.solve_triangular(
            self._factor[:kept, :kept].T, self._factor[kept:, :kept].T @ removed, upper=True
        )
        error = (self._factor[kept:, kept:].T @ self._metric_weight[kept:]).square().sum()
        return Refit((self._weight[:kept] + moved).T.contiguous().to(self._dtype), 0.5 * float(error))

    def cut(self, kept: int) -> Refit:
        """Keep the first `kept` columns as they are: no reconstruction."""
        removed = self._metric_weight[kept:]
        error = (removed * (self._gram[kept:, kept:] @ removed)).sum()
        return Refit(self._weight[:kept].T.contiguous().to(self._dtype), 0.5 * float(error))
