"""What a search may want at once: quality, equal quality for groups of text, and small costs. Less is better in all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from secateur.model.shape import DenseShape
from secateur.predictor.choice import fit_predictor
from secateur.predictor.protocol import Pairs, Predictor
from secateur.predictor.quality import PredictorQuality
from secateur.schema import derive_seed
from secateur.search.fit import KL
from secateur.space.candidate import Measurement
from secateur.space.cost import Cost, cost_of
from secateur.space.encoding import FeatureTable
from secateur.space.search_space import Levels, SearchSpace

QUALITY = "quality"
DISPARITY = "disparity"
COSTS = tuple(Cost.model_fields)
OBJECTIVES = (QUALITY, DISPARITY, *COSTS)
# The target of the predictor where there are no groups; with groups, every group is a target of its own.
DIVERGENCE = "kl"


def loss_target(group: str) -> str:
    """Name under which a measurement holds a group's loss (`Measurement.targets`)."""
    return f"loss {group}"


@dataclass(frozen=True)
class Objectives:
    """What a search is to make small, and which point of the front it takes.

    With groups, quality is the mean over groups of the logarithm of the ratio of a group's perplexity to the dense
    model's (`loss - dense loss`), and disparity the spread of these log ratios: the largest minus the smallest, for two
    groups the absolute difference. Without groups, quality is KL(dense || candidate).

    Attributes:
        names: Of `OBJECTIVES`.
        dense_losses: Loss of the dense model per group, nats per token.
        choose: `best_quality`, `knee` or `least_disparity`; `within` belongs to the last (`least_disparity_within`).

    Source:
        Disparity as an objective of its own beside quality and cost after "Fairer and more accurate tabular models
        through NAS" (arXiv 2310.12145), which has differences of accuracies and rates between demographic groups.
    """

    names: tuple[str, ...] = (QUALITY,)
    dense_losses: Mapping[str, float] = field(default_factory=dict)
    choose: str = "best_quality"
    within: float = 0.02

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.dense_losses)

    @property
    def targets(self) -> tuple[str, ...]:
        """What has to be predicted for them."""
        return self.groups or (DIVERGENCE,)

    def quantity(self, target: str) -> str:
        """Say what a predictor of the target predicts."""
        return f"perplexity over the dense model's, {target}" if self.groups else KL

    @property
    def plain(self) -> bool:
        """Whether there is nothing but KL to make small."""
        return self.names == (QUALITY,) and not self.groups

    @property
    def bound_costs(self) -> tuple[str, ...]:
        """The costs among them; with one, an architecture below the budget is no waste."""
        return tuple(name for name in self.names if name in COSTS)

    def log_ratios(self, measurement: Measurement) -> dict[str, float]:
        """Give log(perplexity / dense perplexity) per group; empty for a measurement without groups."""
        found = measurement.targets
        return {
            group: found[loss_target(group)] - loss
            for group, loss in self.dense_losses.items()
            if loss_target(group) in found
        }

    def measured(self, measurement: Measurement, shape: DenseShape, names: Sequence[str] = ()) -> dict[str, float]:
        """Read the objectives off a measurement that did not fail; other `names` than their own where given."""
        assert measurement.kl is not None, "a failed measurement has no objectives"
        ratios = np.array([list(self.log_ratios(measurement).values()) if self.groups else [measurement.kl]])
        cost = cost_of(shape, measurement.architecture)
        return {name: _value(name, ratios, [cost]).item() for name in names or self.names}

    def predicted(
        self,
        predicted: Mapping[str, Float[np.ndarray, " candidates"]],
        space: SearchSpace,
        levels: Int[np.ndarray, "candidates modules"],
    ) -> Float[np.ndarray, "candidates objectives"]:
        """Put objectives together from predictions: log ratios by group, or log KL; costs are known exactly."""
        values = np.stack([predicted[target] for target in self.targets], axis=1)
        ratios = values if self.groups else np.exp(values)
        costs = [cost_of(space.shape, space.architecture(_levels(row))) for row in levels] if self.bound_costs else []
        return np.stack([_value(name, ratios, costs) for name in self.names], axis=1)


def fit_objective(
    predictor: str,
    table: FeatureTable,
    levels: Int[np.ndarray, "pairs modules"],
    log_target: Float[np.ndarray, " pairs"],
    parameters: Float[np.ndarray, " pairs"],
    seed: int,
) -> tuple[Predictor, PredictorQuality]:
    """Fit what predicts one target of `Objectives.targets`, and judge it.

    Predictors learn the logarithm of something positive, such as KL; the exponential of a group's log ratio, its
    perplexity ratio, is that too.
    """
    pairs = Pairs(table.layout, table.features(levels), np.exp(log_target))
    return fit_predictor(predictor, pairs, parameters, seed)


def fit_objectives(
    objectives: Objectives,
    space: SearchSpace,
    table: FeatureTable,
    measured: Sequence[Measurement],
    predictor: str,
    seed: int,
) -> tuple[dict[str, Predictor], dict[str, PredictorQuality]]:
    """Fit one predictor per target on measurements that did not fail; by target, with its quality."""
    levels = np.array([space.levels(measurement.architecture) for measurement in measured])
    parameters = np.array([float(space.decoder_parameters(_levels(row))) for row in levels])
    fitted = {
        target: fit_objective(
            predictor,
            table,
            levels,
            np.array([log_target(objectives, measurement, target) for measurement in measured]),
            parameters,
            derive_seed(seed, target),
        )
        for target in objectives.targets
    }
    return {name: pair[0] for name, pair in fitted.items()}, {name: pair[1] for name, pair in fitted.items()}


def log_target(objectives: Objectives, measurement: Measurement, target: str) -> float:
    """Give the logarithm of what a predictor of the target learns from a measurement that did not fail."""
    if target != DIVERGENCE or objectives.groups:
        return objectives.log_ratios(measurement)[target]
    assert measurement.kl is not None, "a failed measurement is no pair"
    return float(np.log(max(measurement.kl, np.finfo(float).tiny)))


def _value(
    name: str, ratios: Float[np.ndarray, "candidates targets"], costs: Sequence[Cost]
) -> Float[np.ndarray, " candidates"]:
    if name == QUALITY:
        return ratios.mean(1)
    if name == DISPARITY:
        return np.ptp(ratios, axis=1)
    return np.array([float(getattr(cost, name)) for cost in costs])


def _levels(row: Int[np.ndarray, " modules"]) -> Levels:
    return tuple(row.tolist())
