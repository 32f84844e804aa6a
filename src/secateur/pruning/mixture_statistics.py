"""What calibration knows of a mixture of experts: each expert by itself.

A Gram matrix of all channels would have (experts x width)^2 entries, 52 GB for a layer of Mixtral; those of the experts
have experts x width^2. What is lost are the moments between channels of two experts, which are zero where a token goes
to one expert only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from secateur.model.mixture import ExpertLayout
from secateur.pruning.importance import damped, fluctuation_scores


@dataclass(frozen=True)
class MixtureStatistics:
    """Statistics of a module that is a mixture, as `ModuleStatistics`.

    What is ordered are whole experts, or the channels of each expert; scores are of these.

    Attributes:
        gram: Per expert, mean over all tokens of x x^T; x is zero for tokens that do not go to the expert, and carries
            the router's weight for those that do.
        mean: Over all tokens, of every channel in the module's own order.
    """

    layout: ExpertLayout
    gram: Float[Tensor, "experts width width"]
    gradient_moment: Float[Tensor, "hidden hidden"]
    mean: Float[Tensor, " columns"]
    taylor: Float[Tensor, " ordered"]
    taylor_vector: Float[Tensor, " ordered"]
    fisher: Float[Tensor, " ordered"] | None = None

    @property
    def square_mean(self) -> Float[Tensor, " columns"]:
        return self.layout.join(self.gram.diagonal(dim1=1, dim2=2))

    def removal_errors(
        self, output_weight: Float[Tensor, "hidden columns"], metric: Float[Tensor, "hidden hidden"], ridge: float
    ) -> Float[Tensor, " experts"]:
        """Give what the output's change costs if an expert goes and nothing makes up for it: 1/2 tr(M W_e^T H_e W_e).

        Its tokens go to other experts then, which this does not see.

        Args:
            ridge: Damping of the Gram matrices, as everywhere.
        """
        errors = []
        for gram, columns in zip(self.gram, self.layout.split(output_weight, 1).unbind(1), strict=True):
            weight = columns.double()
            errors.append(0.5 * ((weight @ damped(gram, ridge)) * (metric.double() @ weight)).sum())
        return torch.stack(errors)

    def fluctuation(self, output_weight: Float[Tensor, "hidden columns"]) -> Float[Tensor, " groups"]:
        """Score groups by how much their part of the output varies (see `fluctuation_scores`).

        A channel of every expert has the mean of its experts' scores, each expert's best channels first.
        """
        if self.layout.whole:
            return fluctuation_scores(output_weight, self.square_mean, self.mean, self.layout.num_experts)
        scores = fluctuation_scores(output_weight, self.square_mean, self.mean, output_weight.shape[1])
        return self.layout.split(scores).sort(dim=1, descending=True).values.mean(0)


def zero_gram(num_columns: int, layout: ExpertLayout | None, device: torch.device) -> Tensor:
    """Give a sum of x x^T of nothing yet; of each expert by itself where there are some."""
    if layout is None:
        return torch.zeros(num_columns, num_columns, device=device)
    return torch.zeros(layout.num_experts, layout.width, layout.width, device=device)


def add_to_gram(gram: Tensor, columns: Float[Tensor, "tokens columns"], layout: ExpertLayout | None) -> None:
    """Add x x^T of every token, in place."""
    if layout is None:
        gram += columns.T @ columns
        return
    for expert, own in enumerate(layout.split(columns, 1).unbind(1)):
        # Most tokens do not go there.
        rows = own[own.any(dim=-1)]
        gram[expert] += rows.T @ rows
