"""Orders and output projections of a mixture of experts: every expert by itself, or whole experts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.pruning.calibration import ModuleStatistics
from secateur.pruning.mixture_statistics import MixtureStatistics
from secateur.pruning.orders import Order, OrderInputs
from secateur.pruning.reconstruction import Reconstruction, Refitter
from secateur.schema import derive_seed


@dataclass(frozen=True)
class MixtureFits:
    """What the bank holds of a mixture (see `ModuleBank`).

    Attributes:
        order: Of whole experts; or per rank the channel of every expert.
        outputs: Per width, in that order.
        errors: Per width, summed over experts. A shared expert is not among them, though it goes with the last group.
    """

    order: Int[Tensor, " experts"] | Int[Tensor, "width experts"]
    outputs: dict[int, Float[Tensor, "hidden kept"]]
    errors: dict[int, float]


def fit_mixture(
    statistics: MixtureStatistics,
    tensors: Sequence[tuple[Tensor, int]],
    weight: Float[Tensor, "hidden columns"],
    widths: Sequence[int],
    find_order: Order,
    reconstruct: Reconstruction,
    ridge: float,
    seed: int,
) -> MixtureFits:
    """Order a mixture's groups and make its output projection for every width.

    Experts that stay whole stay as they are: what others leave behind is not theirs to make up for, since the router
    sends its tokens to them anyway.

    Args:
        tensors: (weight, axis along which the groups lie) of every projection.
    """
    if statistics.layout.whole:
        return _whole_experts(statistics, tensors, weight, widths, find_order, ridge, seed)
    return _channels_of_every_expert(statistics, tensors, weight, widths, find_order, reconstruct, ridge, seed)


def _whole_experts(
    statistics: MixtureStatistics,
    tensors: Sequence[tuple[Tensor, int]],
    weight: Float[Tensor, "hidden columns"],
    widths: Sequence[int],
    find_order: Order,
    ridge: float,
    seed: int,
) -> MixtureFits:
    layout = statistics.layout
    order = find_order(OrderInputs(statistics, tensors, weight, layout.num_experts, ridge, seed))
    errors = statistics.removal_errors(weight, statistics.gradient_moment, ridge)[order]
    parts = layout.split(weight, 1)[:, order]
    outputs = {width: layout.join(parts[:, :width], 1).contiguous() for width in widths if width}
    return MixtureFits(order, outputs, {width: float(errors[width:].sum()) for width in widths})


def _channels_of_every_expert(
    statistics: MixtureStatistics,
    tensors: Sequence[tuple[Tensor, int]],
    weight: Float[Tensor, "hidden columns"],
    widths: Sequence[int],
    find_order: Order,
    reconstruct: Reconstruction,
    ridge: float,
    seed: int,
) -> MixtureFits:
    layout = statistics.layout
    orders = []
    outputs: dict[int, list[Tensor]] = {width: [] for width in widths}
    errors = dict.fromkeys(widths, 0.0)
    for expert in range(layout.num_experts):
        own = expert_statistics(statistics, expert)
        own_tensors = [(layout.split(tensor, axis).select(axis, expert), axis) for tensor, axis in tensors]
        own_weight = layout.split(weight, 1)[:, expert]
        own_seed = derive_seed(seed, "expert", expert)
        order = find_order(OrderInputs(own, own_tensors, own_weight, layout.width, ridge, own_seed))
        gram, mean = own.gram[order][:, order], own.mean[order]
        refitter = Refitter(gram, own_weight[:, order], own.gradient_moment, ridge, mean)
        for width in widths:
            fit = reconstruct(refitter, width)
            # The dense weight itself where all stays, free of rounding.
            outputs[width].append(own_weight[:, order] if width == layout.width else fit.weight)
            errors[width] += fit.error
        orders.append(order)
    joined = {width: layout.join(torch.stack(each, dim=1), 1) for width, each in outputs.items() if width}
    return MixtureFits(torch.stack(orders, dim=1), joined, errors)


def expert_statistics(statistics: MixtureStatistics, expert: int) -> ModuleStatistics:
    """Give the statistics of one expert as of a module of its own, whose groups are its channels."""

    def own(scores: Tensor) -> Tensor:
        return statistics.layout.split(scores)[expert]

    return ModuleStatistics(
        gram=statistics.gram[expert],
        gradient_moment=statistics.gradient_moment,
        mean=own(statistics.mean),
        taylor=own(statistics.taylor),
        taylor_vector=own(statistics.taylor_vector),
        fisher=None if statistics.fisher is None else own(statistics.fisher),
    )
