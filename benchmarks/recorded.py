"""Read what benchmarks/record_pairs.py has written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from secateur.model.shape import BlockShape, DenseShape
from secateur.predictor.protocol import Pairs
from secateur.space.encoding import FeatureSource, Sensitivities, feature_table
from secateur.space.search_space import SearchSpace

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Recorded:
    """Architectures of one budget band with their KL, and what features are made of."""

    name: str
    space: SearchSpace
    source: FeatureSource
    levels: Int[np.ndarray, "pairs modules"]
    kl: Float[np.ndarray, " pairs"]

    def pairs(self, blocks: tuple[str, ...] | None = None, centres: tuple[str, ...] = ()) -> Pairs:
        """Encode all pairs.

        Args:
            blocks: Blocks of features; the default ones if not given.
            centres: Whose sensitivities are known.
        """
        known = tuple(each for each in self.source.sensitivities if each.centre in centres)
        source = FeatureSource(self.space, self.source.errors, self.source.removed_importance, known)
        table = feature_table(source, blocks)
        return Pairs(table.layout, table.features(self.levels), self.kl)

    @property
    def parameters(self) -> Float[np.ndarray, " pairs"]:
        return np.array([float(self.space.decoder_parameters(tuple(row))) for row in self.levels.tolist()])


def read_recorded(name: str) -> Recorded:
    """Read benchmarks/data/pairs-NAME.json."""
    record: dict[str, Any] = json.loads((DATA / f"pairs-{name}.json").read_text())
    blocks = {kind: BlockShape(**record["shape"][kind]) for kind in ("attention", "mlp")}
    space = SearchSpace(DenseShape(**record["shape"] | blocks), tuple(map(tuple, record["options"])))

    def table(values: list[list[float]]) -> tuple[np.ndarray, ...]:
        return tuple(np.array(module, dtype=float) for module in values)

    sensitivities = tuple(
        Sensitivities(centre, table(each["change"])) for centre, each in record["sensitivities"].items()
    )
    source = FeatureSource(space, table(record["errors"]), table(record["removed_importance"]), sensitivities)
    return Recorded(name, space, source, np.array(record["levels"]), np.array(record["kl"]))
