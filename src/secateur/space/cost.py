"""What an architecture uses, as exact functions of its widths, and what it may use."""

import math
from dataclasses import dataclass

from secateur.errors import BudgetError
from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.schema import Record
from secateur.space.architecture import Architecture


class Cost(Record):
    """Cost of one architecture.

    `decoder_parameters` counts the transformer blocks only, `total_parameters` the whole model. `flops_per_token` are
    two per matrix entry of the blocks (attention scores, which grow with the context, and the head are outside).
    `kv_cache_bytes_per_token` assumes 2 bytes per entry.
    """

    decoder_parameters: int
    total_parameters: int
    flops_per_token: int
    kv_cache_bytes_per_token: int


def module_parameters(shape: DenseShape, kind: BlockKind, width: int) -> int:
    """Parameters of one block that keeps `width` groups (see `BlockShape.parameters_at`)."""
    return shape.block(kind).parameters_at(width)


def cost_of(shape: DenseShape, architecture: Architecture) -> Cost:
    """Count what an architecture of a dense model costs.

    Args:
        shape: `with_output_bias()` where narrowed blocks gain a bias.
    """
    modules = [(module_of(index)[1], width) for index, width in enumerate(architecture.widths)]
    decoder = sum(module_parameters(shape, kind, width) for kind, width in modules)
    kv_heads = sum(layer.kv_heads for layer in architecture.layers)
    return Cost(
        decoder_parameters=decoder,
        total_parameters=decoder + shape.parameters_outside,
        flops_per_token=2 * sum(width * shape.block(kind).weights_per_group for kind, width in modules),
        kv_cache_bytes_per_token=2 * 2 * kv_heads * shape.head_dim,
    )


@dataclass(frozen=True)
class Budget:
    """The most decoder parameters an architecture may have, and the least that still counts as using the budget.

    Candidates are drawn inside [floor, ceiling], the budget band: a measurement far below the budget teaches only that
    smaller is worse.
    """

    ceiling: int
    floor: int

    @classmethod
    def from_keep(cls, shape: DenseShape, keep: float, band: float) -> "Budget":
        """Make a budget from a share of the dense decoder parameters; what pruning adds comes out of the budget.

        Args:
            band: Share of the budget that may stay unused.

        Raises:
            BudgetError: `keep` is outside (0, 1].
        """
        if not 0 < keep <= 1:
            raise BudgetError(f"--keep must be a share in (0, 1], got {keep}; 0.8 keeps 80 % of the decoder parameters")
        # Rounded first: 3000 * 0.57 is 1709.999... in floating point.
        ceiling = int(round(shape.decoder_parameters * keep, 6))
        return cls(ceiling=ceiling, floor=max(1, math.ceil(ceiling * (1 - band))))

    def widened(self, parameters: int) -> "Budget":
        """Give the budget whose band is at least so many parameters wide."""
        return Budget(self.ceiling, min(self.floor, max(1, self.ceiling - parameters)))

    def admits(self, decoder_parameters: int) -> bool:
        return self.floor <= decoder_parameters <= self.ceiling
