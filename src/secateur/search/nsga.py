"""NSGA-II over architectures inside the budget band, on predictions: pymoo's algorithm, the project's own moves."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.core.sampling import Sampling
from pymoo.optimize import minimize

from secateur.schema import derive_seed
from secateur.space.cost import COSTS, Budget
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import Levels, SearchSpace

Predicted = Callable[[Int[np.ndarray, "candidates modules"]], Float[np.ndarray, "candidates objectives"]]
LevelRows = Int[np.ndarray, "candidates modules"]

POPULATION = 96
GENERATIONS = 30
MAX_SWITCHES = 3
# With a cost among the objectives the band is wide; a candidate then aims at a slice of it, this share of the budget.
SLICE = 0.01
SLICES = 6


def slice_at(space: SearchSpace, budget: Budget, parameters: int) -> Budget:
    """Give a narrow band that ends at so many parameters, inside a wide one: moves fill a band up to its end."""
    width = max(int(space.smallest_step(COSTS["decoder_parameters"])), int(SLICE * budget.ceiling))
    ceiling = min(budget.ceiling, max(parameters, budget.floor + width))
    return Budget.of_decoder_parameters(ceiling, max(budget.floor, ceiling - width))


def slices(space: SearchSpace, budget: Budget, count: int = SLICES) -> list[Budget]:
    """Cut narrow bands out of a wide one, evenly from its floor to its ceiling; the largest comes first."""
    ends = np.linspace(budget.ceiling, budget.floor, count).astype(int)
    return [slice_at(space, budget, int(end)) for end in ends]


def optimise(
    space: SearchSpace, budget: Budget, predicted: Predicted, start: Sequence[Levels], seed: int, *, sliced: bool
) -> dict[Levels, tuple[float, ...]]:
    """Run NSGA-II; give everything that was looked at, with its predicted objectives.

    Args:
        start: Part of the first population, best first; the rest is drawn.
        sliced: The band is wide, and every candidate aims at a slice of it.

    Source:
        NSGA-II (Deb et al., 2002) as pymoo has it (Blank and Deb, arXiv 2002.04504). Mutation is EvoPress's level
        switch, as in the search for one objective (`mutate`); crossover takes every module from either parent.
    """
    problem = _BandProblem(space, predicted)
    aims = _Aims(space, budget, np.random.default_rng(derive_seed(seed, "moves")), sliced)
    algorithm = NSGA2(
        pop_size=POPULATION,
        sampling=_Draws(aims, start, derive_seed(seed, "draw")),
        crossover=_ModuleCrossover(aims),
        mutation=_LevelSwitches(aims),
    )
    minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=derive_seed(seed, "nsga2"), verbose=False)
    return problem.seen


class _Aims:
    """Moves of the project, each into the band that a candidate aims at."""

    def __init__(self, space: SearchSpace, budget: Budget, rng: np.random.Generator, sliced: bool) -> None:
        self.space, self.budget, self.rng, self.sliced = space, budget, rng, sliced

    def band(self, levels: Levels) -> Budget:
        """Give the band for a child: near its parent's size, or now and then anywhere."""
        if not self.sliced:
            return self.budget
        size = self.space.decoder_parameters(levels)
        step = int(SLICE * self.budget.ceiling)
        anywhere = self.rng.random() < 0.2
        wanted = self.rng.integers(self.budget.floor, self.budget.ceiling + 1) if anywhere else size
        return slice_at(self.space, self.budget, int(wanted) + int(self.rng.integers(-step, step + 1)))

    def mutated(self, levels: Levels) -> Levels:
        switches = int(self.rng.integers(1, MAX_SWITCHES + 1))
        return mutate(self.space, levels, self.band(levels), switches, self.rng) or levels

    def repaired(self, levels: Levels, instead: Levels) -> Levels:
        return repair(self.space, levels, self.band(levels), self.rng) or instead


class _BandProblem(Problem):
    """Predicted objectives of levels; keeps all that it has seen."""

    def __init__(self, space: SearchSpace, predicted: Predicted) -> None:
        self.predicted = predicted
        self.seen: dict[Levels, tuple[float, ...]] = {}
        highest = np.array([len(options) - 1 for options in space.options])
        one = predicted(np.zeros((1, space.num_modules), dtype=int))
        super().__init__(n_var=space.num_modules, n_obj=one.shape[1], xl=np.zeros_like(highest), xu=highest, vtype=int)

    def _evaluate(self, x: LevelRows, out: dict[str, Any], *_args: object, **_kwargs: object) -> None:
        values = self.predicted(x.astype(int))
        rows = map(tuple, x.astype(int).tolist())
        self.seen.update(zip(rows, map(tuple, values.tolist()), strict=True))
        out["F"] = values


class _Draws(Sampling):
    """The first population: what is known to be good, then draws over the band."""

    def __init__(self, aims: _Aims, start: Sequence[Levels], seed: int) -> None:
        super().__init__()
        self.aims, self.start, self.seed = aims, start, seed

    def _do(self, _problem: Problem, n_samples: int, **_kwargs: object) -> LevelRows:
        space, budget = self.aims.space, self.aims.budget
        found = dict.fromkeys(self.start[: n_samples // 2])
        bands = slices(space, budget) if self.aims.sliced else [budget]
        for number, band in enumerate(bands):
            drawn = sample_architectures(space, band, -(-n_samples // len(bands)), derive_seed(self.seed, number))
            found |= dict.fromkeys(map(space.levels, drawn))
        return np.array(list(found)[:n_samples])


class _ModuleCrossover(Crossover):
    """Two children of two parents: every module from either of them, repaired into the band."""

    def __init__(self, aims: _Aims) -> None:
        super().__init__(n_parents=2, n_offsprings=2)
        self.aims = aims

    def _do(
        self, _problem: Problem, x: Int[np.ndarray, "2 matings modules"], **_kwargs: object
    ) -> Int[np.ndarray, "2 matings modules"]:
        children = x.copy()
        for mating in range(x.shape[1]):
            parents: list[Levels] = [tuple(x[parent, mating].tolist()) for parent in (0, 1)]
            first = self.aims.rng.random(x.shape[2]) < 0.5
            for child, other in ((0, 1), (1, 0)):
                mixed = tuple(np.where(first, x[child, mating], x[other, mating]).tolist())
                children[child, mating] = self.aims.repaired(mixed, parents[child])
        return children


class _LevelSwitches(Mutation):
    """EvoPress's level switches."""

    def __init__(self, aims: _Aims) -> None:
        super().__init__()
        self.aims = aims

    def _do(self, _problem: Problem, x: LevelRows, **_kwargs: object) -> LevelRows:
        return np.array([self.aims.mutated(tuple(row)) for row in x.astype(int).tolist()])
