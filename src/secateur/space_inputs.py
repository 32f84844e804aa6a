"""The search space that a configuration leaves: what may be cut, and on which grid."""

from collections.abc import Mapping

from secateur.config import RunConfig
from secateur.model.loading import DenseModel
from secateur.model.shape import DenseShape
from secateur.space.cost import ModuleCost
from secateur.space.search_space import (
    GPU_MULTIPLE,
    K_QUANTS_MULTIPLE,
    SearchSpace,
    define_space,
    hardware_multiple,
)


def space_of(config: RunConfig, dense: DenseModel, costs: Mapping[str, ModuleCost]) -> SearchSpace:
    """Define the space that the configuration leaves."""
    limits = config.space
    return define_space(
        dense.shape.with_output_bias() if config.pruning.reconstruction == "bias" else dense.shape,
        limits.ffn_levels,
        limits.kv_levels,
        width_multiple(config, dense.shape),
        limits.protect_first,
        limits.protect_last,
        limits.tensor_parallel,
        costs,
    )


def width_multiple(config: RunConfig, shape: DenseShape) -> int:
    """Give what FFN widths are multiples of: as asked, or as who loads the export likes it; of experts, any number."""
    if shape.whole_experts:
        return config.space.multiple_of or 1
    largest = K_QUANTS_MULTIPLE if config.export.target == "gguf" else GPU_MULTIPLE
    return config.space.multiple_of or hardware_multiple(shape.ffn_width, largest)
