"""Every importance by name: from a module's statistics and weights to the order in which its groups stay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.errors import ConfigError, suggestion
from secateur.pruning.calibration import Statistics
from secateur.pruning.importance import (
    fluctuation_scores,
    greedy_elimination_order,
    magnitude_scores,
    order_by_scores,
    wanda_scores,
)
from secateur.pruning.mixture_statistics import MixtureStatistics


@dataclass(frozen=True)
class OrderInputs:
    """What an importance may look at: the statistics and dense weights of a module, or of one expert of a mixture.

    Attributes:
        tensors: (weight, axis along which the groups lie) of every projection.
        seed: For the random order; differs between modules.
    """

    statistics: Statistics
    tensors: Sequence[tuple[Tensor, int]]
    output_weight: Float[Tensor, "hidden columns"]
    num_groups: int
    ridge: float
    seed: int

    @property
    def square_mean(self) -> Float[Tensor, " columns"]:
        return self.statistics.square_mean

    @property
    def fluctuation(self) -> Float[Tensor, " groups"]:
        return fluctuation_scores(self.output_weight, self.square_mean, self.statistics.mean, self.num_groups)


Order = Callable[[OrderInputs], Int[Tensor, " groups"]]


def _eliminated(module: OrderInputs, metric: Float[Tensor, "hidden hidden"]) -> Int[Tensor, " groups"]:
    statistics = module.statistics
    if isinstance(statistics, MixtureStatistics):
        # Without moments between experts, what one costs does not depend on which others are left.
        return order_by_scores(statistics.removal_errors(module.output_weight, metric, module.ridge))
    return greedy_elimination_order(statistics.gram, module.output_weight, metric, module.num_groups, module.ridge)


def _shuffled(module: OrderInputs) -> Int[Tensor, " groups"]:
    generator = torch.Generator().manual_seed(module.seed)
    return torch.randperm(module.num_groups, generator=generator).to(module.output_weight.device)


def _by_fisher(module: OrderInputs) -> Int[Tensor, " groups"]:
    assert module.statistics.fisher is not None, "calibration was asked for what NEEDS_FISHER names"
    return order_by_scores(module.statistics.fisher)


IMPORTANCE: dict[str, Order] = {
    "obs": lambda m: _eliminated(m, m.statistics.gradient_moment),
    "obs_plain": lambda m: _eliminated(m, torch.eye(len(m.output_weight), device=m.output_weight.device)),
    "taylor": lambda m: order_by_scores(m.statistics.taylor),
    "taylor_second": _by_fisher,
    "taylor_vector": lambda m: order_by_scores(m.statistics.taylor_vector),
    "wanda": lambda m: order_by_scores(wanda_scores(m.output_weight, m.square_mean, m.num_groups)),
    "wifv": lambda m: order_by_scores(m.fluctuation),
    "l1": lambda m: order_by_scores(magnitude_scores(m.tensors, m.num_groups, power=1)),
    "l2": lambda m: order_by_scores(magnitude_scores(m.tensors, m.num_groups, power=2)),
    "random": _shuffled,
}
NEEDS_FISHER = frozenset({"taylor_second"})


def importance_order(name: str) -> Order:
    """Look an importance up by name.

    Raises:
        ConfigError: There is none of that name; the message lists those that there are.
    """
    if name not in IMPORTANCE:
        raise ConfigError(f"pruning.importance={name!r} is unknown; {suggestion(name, IMPORTANCE)}")
    return IMPORTANCE[name]
