"""In which order the groups of a module go.

Importance is one score per group, higher means keep; sorting by it gives the order in which a module's groups stay.
Greedy elimination gives that order directly, because what a group is worth depends on which others are left.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def taylor_scores(
    tensors: Sequence[tuple[Float[Tensor, "_rows _columns"], Float[Tensor, "_rows _columns"], int]], num_groups: int
) -> Float[Tensor, " groups"]:
    """Score groups by LLM-Pruner's Element1: sum of |w dL/dw| over all entries of all tensors of the group.

    Args:
        tensors: (weight, gradient, axis): the group's slices lie along that axis, contiguous and equal in size.

    Source:
        LLM-Pruner (arXiv 2305.11627), eq. 4 and its `param_first` variant, sub-scores summed over the group.
    """
    scores = torch.zeros(num_groups, device=tensors[0][0].device)
    for weight, gradient, axis in tensors:
        scores += (weight.float() * gradient.float()).abs().sum(1 - axis).view(num_groups, -1).sum(1)
    return scores


def taylor_vector_scores(
    tensors: Sequence[tuple[Float[Tensor, "_rows _columns"], Float[Tensor, "_rows _columns"], int]], num_groups: int
) -> Float[Tensor, " groups"]:
    """Score groups by LLM-Pruner's Vector: |sum of w dL/dw| per row (or column) of a tensor, summed over the group.

    Args:
        tensors: As for `taylor_scores`.

    Source:
        LLM-Pruner (arXiv 2305.11627), eq. 3: the first-order change of the loss if the whole row went at once.
    """
    scores = torch.zeros(num_groups, device=tensors[0][0].device)
    for weight, gradient, axis in tensors:
        scores += (weight.float() * gradient.float()).sum(1 - axis).abs().view(num_groups, -1).sum(1)
    return scores


def fisher_scores(
    tensors: Sequence[tuple[Float[Tensor, "_rows _columns"], Float[Tensor, "_rows _columns"], int]], num_groups: int
) -> Float[Tensor, " groups"]:
    """Score groups by LLM-Pruner's Element2: sum of w F w over all entries of all tensors of the group.

    Args:
        tensors: (weight, sum over windows of the squared gradient of that window's loss, axis); the sum is the diagonal
            of the empirical Fisher matrix F up to a factor, which changes no order.

    Source:
        LLM-Pruner (arXiv 2305.11627), eq. 5, its `param_second` variant.
    """
    scores = torch.zeros(num_groups, device=tensors[0][0].device)
    for weight, squares, axis in tensors:
        scores += (weight.float().square() * squares.float()).sum(1 - axis).view(num_groups, -1).sum(1)
    return scores


def magnitude_scores(
    tensors: Sequence[tuple[Float[Tensor, "_rows _columns"], int]], num_groups: int, power: int
) -> Float[Tensor, " groups"]:
    """Score groups by sum of |w|^power over all entries of all tensors of the group: L1 for 1, L2 (squared) for 2."""
    scores = torch.zeros(num_groups, device=tensors[0][0].device)
    for weight, axis in tensors:
        scores += weight.float().abs().pow(power).sum(1 - axis).view(num_groups, -1).sum(1)
    return scores


def fluctuation_scores(
    output_weight: Float[Tensor, "hidden columns"],
    square_mean: Float[Tensor, " columns"],
    mean: Float[Tensor, " columns"],
    num_groups: int,
) -> Float[Tensor, " groups"]:
    """Score groups by how much their part of the output varies over tokens: a constant part is but a bias.

    For one column j that is `var(x[j]) * norm(W[:, j]) ** 2`, standardised over the columns of the module ((score -
    mean) / standard deviation) and averaged over the columns of a head.

    Returns:
        Scores of mean 0, which may be compared across modules; higher means more important.

    Source:
        FLAP's WIFV metric (arXiv 2312.11983, eq. 4 and 5). Its code squares the scores of attention, and not those of
        the MLP, before it standardises them; so do we.
    """
    variance = (square_mean.double() - mean.double().square()).clamp(min=0)
    columns = output_weight.double().square().sum(0) * variance
    if len(columns) > num_groups:
        columns = columns.square()
    spread = columns.std() if len(columns) > 1 else columns.new_zeros(())
    standard = (columns - columns.mean()) / spread.clamp(min=torch.finfo(torch.float64).tiny)
    return standard.view(num_groups, -1).mean(1).float()


def wanda_scores(
    output_weight: Float[Tensor, "hidden columns"], square_mean: Float[Tensor, " columns"], num_groups: int
) -> Float[Tensor, " groups"]:
    """Score groups by the root mean square output change that removing their columns would cause.

    For one column j that is `norm(W[:, j]) * sqrt(mean(x[j] ** 2))`; squares add up over the columns of a group.

    Source:
        Wanda scores one weight by |W_ij| norm(X_j) (arXiv 2306.11695); ours is the norm of column j of those scores, up
        to a factor common to all groups, with the columns of a head taken as independent.
    """
    columns = output_weight.float().square().sum(0) * square_mean
    return columns.view(num_groups, -1).sum(1).sqrt()


def order_by_scores(scores: Float[Tensor, " groups"]) -> Int[Tensor, " groups"]:
    """Give group indices, most important first; equal scores keep their position."""
    return torch.argsort(scores, descending=True, stable=True)


def greedy_elimination_order(
    gram: Float[Tensor, "columns columns"],
    output_weight: Float[Tensor, "hidden columns"],
    gradient_moment: Float[Tensor, "hidden hidden"],
    num_groups: int,
    ridge: float,
    max_rounds: int = 512,
) -> Int[Tensor, " groups"]:
    """Order groups by greedy optimal-brain-surgeon elimination in the metric M.

    With H the (damped) Gram matrix, removing the columns P and refitting the others by least squares leaves the error
    `tr(M W_P^T ((H^-1)_PP)^-1 W_P)` (W as [columns, hidden]). The group with the least error goes, W and H^-1 are
    updated, and so on; the last to go comes first in the order.

    Args:
        ridge: Damping of H as a share of its mean diagonal.
        max_rounds: Modules with more groups than this lose several per round, the round's scores taken as they are.

    Returns:
        Group indices, most worth keeping first.

    Source:
        Optimal brain surgeon for structures: ZipLM (arXiv 2302.04089, eq. 3), OSSCAR (arXiv 2403.12983). The metric M
        on the output, in place of the identity, is ours; the refitted W does not depend on it.
    """
    num_columns = gram.shape[0]
    size = num_columns // num_groups
    inverse = torch.linalg.inv(damped(gram, ridge))
    # In the coordinates of M's square root the metric is the identity.
    weight = output_weight.double().T @ matrix_square_root(gradient_moment)
    alive = torch.ones(num_groups, dtype=torch.bool, device=gram.device)
    removed: list[int] = []
    per_round = -(-num_groups // max_rounds)
    blocks = torch.arange(num_columns, device=gram.device).view(num_groups, size)
    while len(removed) < num_groups:
        left = alive.nonzero().flatten()
        columns = blocks[left]
        own_inverse = inverse[columns.unsqueeze(2), columns.unsqueeze(1)]
        own_weight = weight[columns]
        errors = (own_weight * torch.linalg.solve(own_inverse, own_weight)).sum((1, 2))
        chosen = left[torch.argsort(errors, stable=True)[: min(per_round, len(left))]]
        removed += chosen.tolist()
        alive[chosen] = False
        gone = blocks[chosen].flatten()
        coupling = inverse[:, gone]
        step = torch.linalg.solve(inverse[gone][:, gone], torch.cat([weight[gone], inverse[gone]], dim=1))
        update = coupling @ step
        weight -= update[:, : weight.shape[1]]
        inverse -= update[:, weight.shape[1] :]
        # What rounding leaves in the removed rows and columns must not leak into later rounds.
        inverse[gone] = 0
        inverse[:, gone] = 0
        weight[gone] = 0
    return torch.tensor(removed[::-1], device=gram.device)


def damped(gram: Float[Tensor, "columns columns"], ridge: float) -> Float[Tensor, "columns columns"]:
    """Give H + lambda I in float64, with lambda a share of H's mean diagonal, so that inverses exist."""
    matrix = gram.to(torch.float64, copy=True)
    # A module whose input is always zero still needs a positive matrix; any damping gives it zero errors.
    scale = matrix.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny * 1e10)
    matrix.diagonal().add_(ridge * scale)  # in place: of a wide module every copy is half a gigabyte
    return matrix


def matrix_square_root(moment: Float[Tensor, "hidden hidden"]) -> Float[Tensor, "hidden hidden"]:
    """Give R with R R^T = moment, in float64, for a symmetric moment matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(moment.double())
    return vectors * values.clamp(min=0).sqrt()
