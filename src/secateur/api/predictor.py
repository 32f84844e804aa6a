"""A predictor that is asked about architectures, whatever numbers it sees of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from secateur.errors import ConfigError, DataError, suggestion
from secateur.predictor.choice import AUTO, PREDICTORS
from secateur.predictor.choice import fit_predictor as fit_on_pairs
from secateur.predictor.protocol import Pairs, Predictor
from secateur.predictor.quality import PredictorQuality
from secateur.pruning.bank import WeightBank
from secateur.schema import derive_seed
from secateur.search.one_round import FEWEST_TO_FIT
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement
from secateur.space.encoding import FeatureSource, FeatureTable, by_option, feature_table
from secateur.space.search_space import SearchSpace


@dataclass(frozen=True)
class FittedPredictor:
    """Predicts the KL of architectures in nats per token.

    Attributes:
        quality: Rank correlation with measurements that it was not fitted on.
        predictor: The model underneath, in log nats.
    """

    quality: PredictorQuality
    predictor: Predictor = field(repr=False)
    space: SearchSpace = field(repr=False)
    table: FeatureTable = field(repr=False)

    def predict(self, architectures: Sequence[Architecture]) -> Float[np.ndarray, " candidates"]:
        """Predict the KL of architectures of the space.

        Raises:
            ValueError: An architecture is not of the space.
        """
        return np.exp(self.predictor.predict(self._features(architectures)))

    def interval(
        self, architectures: Sequence[Architecture], confidence: float = 0.9
    ) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        """Give where the measured KL will be: lower and upper end."""
        interval = self.predictor.interval(self._features(architectures), confidence)
        return np.exp(interval.low), np.exp(interval.high)

    def _features(self, architectures: Sequence[Architecture]) -> Float[np.ndarray, "candidates features"]:
        return self.table.features(levels_of(self.space, architectures))


def fit_predictor(
    space: SearchSpace,
    bank: WeightBank,
    measurements: Sequence[Measurement],
    *,
    name: str = AUTO,
    seed: int = 0,
) -> FittedPredictor:
    """Fit an accuracy predictor on measured architectures of a space, all of one protocol.

    Args:
        bank: Whose reconstruction errors are among what it learns from.
        measurements: Those that failed are left out; a good predictor needs 25 or more.
        name: A name of `search.predictor`; `auto` takes the one that ranks best in cross-validation.

    Raises:
        ConfigError: The name is unknown.
        DataError: Too few measurements succeeded, or they are of several protocols.
    """
    if name != AUTO and name not in PREDICTORS:
        raise ConfigError(f"predictor {name!r} is unknown; {suggestion(name, (AUTO, *PREDICTORS))}")
    known = [measurement for measurement in measurements if measurement.kl is not None]
    if len(known) < FEWEST_TO_FIT:
        raise DataError(
            f"{len(known)} of {len(measurements)} measurements succeeded, at least {FEWEST_TO_FIT} are needed to fit a "
            "predictor; measure more architectures"
        )
    if len({measurement.protocol for measurement in known}) > 1:
        raise DataError(
            "the measurements are of several protocols, which cannot be compared; give those of one Measurer"
        )
    errors = by_option(space, [bank.errors(module) for module in range(space.num_modules)])
    table = feature_table(FeatureSource(space, errors))
    levels = levels_of(space, [measurement.architecture for measurement in known])
    kl = np.array([measurement.kl for measurement in known], dtype=float)
    parameters = np.array([float(space.decoder_parameters(tuple(row))) for row in levels.tolist()])
    pairs = Pairs(table.layout, table.features(levels), kl)
    predictor, quality = fit_on_pairs(name, pairs, parameters, derive_seed(seed, "fit", 1))
    return FittedPredictor(quality, predictor, space, table)


def levels_of(space: SearchSpace, architectures: Sequence[Architecture]) -> Int[np.ndarray, "candidates modules"]:
    return np.array([space.levels(architecture) for architecture in architectures])
