"""How what stays in a module makes up for what goes: not at all, by a bias, or refitted by least squares."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.errors import ConfigError, suggestion
from secateur.pruning.importance import damped, matrix_square_root


@dataclass(frozen=True)
class Refit:
    """Output projection of one width, and the error it leaves.

    Attributes:
        weight: [hidden, kept columns], as `nn.Linear` stores it.
        error: 1/2 E[(g . dy)^2] with g and dy taken as independent, in nats per token: what the module's output change
            costs, were it the only one.
        bias: What the projection's bias gains; None where it gains nothing.
    """

    weight: Float[Tensor, "hidden kept"]
    error: float
    bias: Float[Tensor, " hidden"] | None = None


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
        mean: Float[Tensor, " columns"] | None = None,
    ) -> None:
        """Gram matrix, weight and mean of the projection's input must already be in the module's order."""
        self._gram = damped(gram, ridge)
        self._factor = torch.linalg.cholesky(self._gram)
        self._weight = output_weight.double().T
        self._metric_weight = self._weight @ matrix_square_root(gradient_moment)
        self._mean = mean
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

    def bias(self, kept: int) -> Refit:
        """Keep the first `kept` columns as they are, and what the others add on average as a bias.

        With m the mean of the projection's input, the bias gains `W_P^T m_P`, so the module's mean output stays. What
        is lost is only how the others vary, `W_P^T (x_P - m_P)`: the error of `cut` with the centred `H - m m^T` for H.

        With nothing kept the block is gone and has no bias either; with all kept there is nothing to make up for.

        Raises:
            ValueError: The refitter was made without a mean.

        Source:
            FLAP's baseline bias compensation (arXiv 2312.11983, eq. 6): `W_P^T m_P` is its W ((1 - M) * mean X) with M
            the mask of what stays. Two departures: FLAP sets the bias, ours adds to one that is there; and where a
            whole block goes FLAP would leave its mean output as a constant, while here no tensor is left to hold it.
        """
        if self._mean is None:
            raise ValueError("a bias needs the mean of the projection's input, got None; pass `mean` to Refitter")
        cut = self.cut(kept)
        if kept in (0, len(self._weight)):
            return cut
        mean = self._mean[kept:].double()
        made_up = (mean @ self._metric_weight[kept:]).square().sum()
        # Damping keeps the centred moment positive, except where it is smaller than the rounding of m.
        error = max(0.0, cut.error - 0.5 * float(made_up))
        return Refit(cut.weight, error, (mean @ self._weight[kept:]).to(self._dtype))


Reconstruction = Callable[[Refitter, int], Refit]

RECONSTRUCTIONS: dict[str, Reconstruction] = {
    "none": Refitter.cut,
    "bias": Refitter.bias,
    "least_squares": Refitter.refit,
}


def reconstruction_method(name: str) -> Reconstruction:
    """Look a reconstruction up by name.

    Raises:
        ConfigError: There is none of that name; the message lists those that there are.
    """
    if name not in RECONSTRUCTIONS:
        raise ConfigError(f"reconstruction {name!r} is unknown; {suggestion(name, RECONSTRUCTIONS)}")
    return RECONSTRUCTIONS[name]
