"""Architectures as numbers: the features that predictors learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from secateur.model.shape import module_of
from secateur.space.search_space import SearchSpace


@dataclass(frozen=True)
class FeatureTable:
    """Looks features up from levels.

    Features, in order: the kept ratio of every module (the effective one: what rounding left), then the summed
    reconstruction error of attention, of the MLPs, and of both, in nats (`Refit.error`; no measurement goes into it).

    `monotone` says per feature how the loss may depend on it: -1 falls where the feature grows, +1 grows with it.
    """

    names: tuple[str, ...]
    monotone: tuple[int, ...]
    kept: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]

    def features(self, levels: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, "candidates features"]:
        """Encode candidates."""
        kept = np.stack([table[column] for table, column in zip(self.kept, levels.T, strict=True)], axis=1)
        errors = np.stack([table[column] for table, column in zip(self.errors, levels.T, strict=True)], axis=1)
        attention, mlp = errors[:, ::2].sum(1), errors[:, 1::2].sum(1)
        return np.column_stack([kept, attention, mlp, attention + mlp])


def feature_table(space: SearchSpace, errors: Sequence[Mapping[int, float]]) -> FeatureTable:
    """Tabulate features for every option of the space.

    Args:
        errors: Per module, error per width.
    """
    kinds = [module_of(index) for index in range(space.num_modules)]
    names = [f"kept.{layer}.{kind.value}" for layer, kind in kinds]
    return FeatureTable(
        names=(*names, "error.attention", "error.mlp", "error"),
        monotone=(-1,) * len(names) + (1, 1, 1),
        kept=tuple(
            np.array(options) / space.shape.block(kind).num_groups
            for options, (_, kind) in zip(space.options, kinds, strict=True)
        ),
        errors=tuple(
            np.array([errors[index][width] for width in options]) for index, options in enumerate(space.options)
        ),
    )
