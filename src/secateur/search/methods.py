"""Every way to decide how much of every layer goes, by name: `search.method`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.data import TokenSet
from secateur.model.loading import DenseModel
from secateur.model.shape import DenseShape, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import output_projection
from secateur.pruning.calibration import Statistics
from secateur.pruning.importance import fluctuation_scores
from secateur.pruning.mixture_statistics import MixtureStatistics
from secateur.search.additive import additive_search
from secateur.search.block_influence import block_influence, layer_dropping_architecture
from secateur.search.evolution import evolutionary_search
from secateur.search.exhaustive import holds_few, measure_all
from secateur.search.front import search_front
from secateur.search.global_threshold import global_threshold_architecture
from secateur.search.random_search import random_search
from secateur.search.rounds import search_rounds
from secateur.search.task import Found, SearchTask, ranked
from secateur.search.uniform import uniform_architecture, uniform_middle_architecture
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace


@dataclass(frozen=True)
class AllocationInputs:
    """What an allocation that measures nothing may look at."""

    dense: DenseModel
    shape: DenseShape
    budget: Budget
    statistics: Sequence[Statistics]
    walk: DecoderWalk
    calibration: TokenSet
    batch_tokens: int


def _global_threshold(inputs: AllocationInputs) -> Architecture:
    modules = range(inputs.shape.num_modules)
    scores = []
    for module, statistics in zip(modules, inputs.statistics, strict=True):
        num_groups = inputs.shape.block(module_of(module)[1]).num_groups
        weight = output_projection(inputs.dense, module).weight.detach()
        if isinstance(statistics, MixtureStatistics):
            scores.append(statistics.fluctuation(weight))
        else:
            scores.append(fluctuation_scores(weight, statistics.square_mean, statistics.mean, num_groups))
    return global_threshold_architecture(inputs.shape, inputs.budget, scores)


def _layer_dropping(inputs: AllocationInputs) -> Architecture:
    influence = block_influence(inputs.walk, inputs.calibration, inputs.batch_tokens)
    return layer_dropping_architecture(inputs.shape, inputs.budget, influence)


def _secateur(task: SearchTask) -> Found:
    if holds_few(task):
        return measure_all(task)
    return search_rounds(task) if task.objectives.plain else search_front(task)


# Those that need no calibration, and so can be refused before it.
UNIFORM: dict[str, Callable[[DenseShape, Budget], Architecture]] = {
    "uniform": uniform_architecture,
    "uniform_middle": uniform_middle_architecture,
}
ALLOCATIONS: dict[str, Callable[[AllocationInputs], Architecture]] = {
    "uniform": lambda inputs: UNIFORM["uniform"](inputs.shape, inputs.budget),
    "uniform_middle": lambda inputs: UNIFORM["uniform_middle"](inputs.shape, inputs.budget),
    "global_threshold": _global_threshold,
    "block_influence": _layer_dropping,
}
SEARCHES: dict[str, Callable[[SearchTask], Found]] = {
    "secateur": _secateur,
    "random": random_search,
    "evolutionary": evolutionary_search,
    "additive": additive_search,
}
# Its search takes settings of its own (`search.ji2023`).
JI2023 = "ji2023"
METHODS = (*SEARCHES, JI2023, *ALLOCATIONS)


def single_architecture_space(shape: DenseShape, architecture: Architecture) -> SearchSpace:
    """Give the space that holds one architecture: what an allocation leaves to search."""
    return SearchSpace(shape=shape, options=tuple((width,) for width in architecture.widths))


def measure_the_one(task: SearchTask) -> Found:
    """Measure the one architecture of a space."""
    measured = task.measure([task.candidate((0,) * task.space.num_modules, "allocated")])
    return Found(measured, ranked(measured))
