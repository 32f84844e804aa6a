import itertools

import numpy as np
import pytest

from planted import PlantedProblem, Problem
from secateur.budget import BudgetConfig
from secateur.search.additive import FEWEST_SOLUTIONS, additive_optimum, additive_search
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace, define_space


@pytest.fixture(scope="module")
def coarse(prepared):
    """A space of 4,096 architectures: few enough to try them all."""
    return SearchSpace(shape=prepared.dense.shape, options=((0, 1, 2, 4), (0, 16, 32, 48)) * 3)


def random_losses(space, rng):
    """Losses of single modules that need not fall with the width."""
    return [{width: float(rng.random() * (1 - width / options[-1])) for width in options} for options in space.options]


def summed(space, losses, levels):
    return sum(losses[module][space.options[module][level]] for module, level in enumerate(levels))


def inside(space, budget):
    return [
        levels
        for levels in itertools.product(*(range(len(options)) for options in space.options))
        if budget.admits(space.decoder_parameters(levels))
    ]


class TestAdditiveOptimum:
    @pytest.mark.parametrize("seed", range(8))
    def test_is_that_of_trying_everything(self, coarse, seed):
        losses = random_losses(coarse, np.random.default_rng(seed))
        budget = Budget.from_keep(coarse.shape, (0.3, 0.5, 0.7, 0.9)[seed % 4], 0.1)
        found = additive_optimum(coarse, budget, losses)
        assert budget.admits(coarse.decoder_parameters(found))
        least = min(summed(coarse, losses, levels) for levels in inside(coarse, budget))
        assert summed(coarse, losses, found) == pytest.approx(least, rel=1e-3)

    def test_is_nothing_where_nothing_is_inside_the_band(self, prepared):
        space = define_space(prepared.dense.shape, 2, 2)
        losses = [dict.fromkeys(options, 1.0) for options in space.options]
        assert additive_optimum(space, Budget.of_decoder_parameters(ceiling=100, floor=50), losses) is None

    def test_what_the_solver_prints_is_not_seen(self, coarse, capfd):
        """HiGHS writes lines of its own to standard output; a run's output is the tool's."""
        losses = random_losses(coarse, np.random.default_rng(0))
        print("before")
        for keep in (0.3, 0.6, 0.95):
            additive_optimum(coarse, Budget.from_keep(coarse.shape, keep, 0.1), losses)
        print("behind")
        assert capfd.readouterr().out == "before\nbehind\n"

    @pytest.mark.parametrize("seed", range(6))
    def test_of_several_limits_is_that_of_trying_everything(self, coarse, seed):
        losses = random_losses(coarse, np.random.default_rng(seed))
        falling = [dict(zip(module, sorted(module.values(), reverse=True), strict=True)) for module in losses]
        limits = ({"max_flops": 40_000}, {"keep": 0.6}, {"max_params": 25_000})[seed % 3]
        config = BudgetConfig(max_kv_cache_bytes=(200, 260)[seed % 2], band=0.3, **limits)
        budget = Budget.from_config(coarse.shape, config)
        assert len(budget.limits) == 2
        found = additive_optimum(coarse, budget, falling)
        assert budget.admits(*coarse.used(budget, found))
        everything = itertools.product(*(range(len(options)) for options in coarse.options))
        allowed = [levels for levels in everything if budget.allows(*coarse.used(budget, levels))]
        least = min(summed(coarse, falling, levels) for levels in allowed)
        assert 100 < len(allowed) < 4_000
        assert summed(coarse, falling, found) == pytest.approx(least, rel=1e-3)

    def test_of_one_limit_on_something_else_uses_it_up(self, coarse):
        losses = [dict.fromkeys(options, 0.0) for options in coarse.options]
        for limits in ({"max_params": 25_000}, {"max_flops": 40_000}, {"max_kv_cache_bytes": 200}):
            budget = Budget.from_config(coarse.shape, BudgetConfig(band=0.1, **limits))
            assert budget.admits(*coarse.used(budget, additive_optimum(coarse, budget, losses)))

    def test_losses_that_are_all_zero_are_no_trouble(self, prepared):
        losses = [dict.fromkeys(options, 0.0) for options in prepared.space.options]
        budget = Budget.from_keep(prepared.dense.shape, 0.5, 0.05)
        assert budget.admits(prepared.space.decoder_parameters(additive_optimum(prepared.space, budget, losses)))


def summing_problem(space, seed):
    """A problem whose loss is a sum over modules, dense ones free."""
    losses = random_losses(space, np.random.default_rng(seed))
    return Problem(
        lambda architecture: summed(space, losses, space.levels(architecture)),
        space,
        Budget.from_keep(space.shape, 0.6, 0.1),
    )


class TestAdditiveSearch:
    @pytest.mark.parametrize("num_measurements", [40, 55, 80])
    def test_probes_and_solutions_are_as_many_as_were_allowed(self, num_measurements):
        problem = PlantedProblem(0)
        found = additive_search(problem.task(num_measurements=num_measurements))
        assert len(problem.measured) == found.num_measurements == num_measurements
        assert len(found.measurements) >= FEWEST_SOLUTIONS
        assert [candidate.origin for candidate in problem.candidates] == (
            ["single"] * len(found.probes) + ["additive"] * len(found.measurements)
        )

    def test_a_probe_narrows_one_module_of_the_dense_model(self):
        problem = PlantedProblem(0)
        found = additive_search(problem.task(num_measurements=40))
        dense = np.array([options[-1] for options in problem.space.options])
        narrowed = [np.flatnonzero(np.array(probe.architecture.widths) != dense) for probe in found.probes]
        assert all(len(modules) == 1 for modules in narrowed)
        # 30 measurements for 8 modules are 3 widths each: nothing, and two between nothing and all.
        assert [int(modules[0]) for modules in narrowed] == sorted(list(range(8)) * 3)
        widths = [probe.architecture.widths[1] for probe in found.probes[3:6]]
        assert widths[0] == 0
        assert widths == sorted(set(widths))

    def test_a_loss_that_adds_up_is_solved_by_the_first_solution(self):
        problem = PlantedProblem(3)
        found = additive_search(problem.task())
        assert len(found.probes) == 8 * 8, "every width but the dense one"
        assert found.measurements[0].architecture == problem.planted
        assert found.best.architecture == problem.planted

    def test_solutions_are_distinct_and_inside_the_band_and_the_exact_one_comes_first(self, coarse):
        """With measurements enough for every width, sums are the losses themselves."""
        problem = summing_problem(coarse, seed=1)
        solutions = additive_search(problem.task(num_measurements=6 * 3 + 15)).measurements
        assert len({measurement.architecture for measurement in solutions}) == len(solutions) == 15
        assert all(problem.admits(measurement.architecture) for measurement in solutions)
        least = min(problem.kl_of(coarse.architecture(levels)) for levels in inside(coarse, problem.budget))
        assert solutions[0].kl == pytest.approx(least, rel=1e-3)

    def test_most_solutions_behind_the_first_are_far_better_than_draws(self, coarse):
        problem = summing_problem(coarse, seed=1)
        solutions = additive_search(problem.task(num_measurements=6 * 3 + 15)).measurements
        every = [problem.kl_of(coarse.architecture(levels)) for levels in inside(coarse, problem.budget)]
        assert np.median([measurement.kl for measurement in solutions]) < np.quantile(every, 0.1)

    def test_the_seed_decides_what_comes_behind_the_first(self, coarse):
        def found(seed):
            task = summing_problem(coarse, seed=1).task(num_measurements=6 * 3 + 15, seed=seed)
            return [measurement.architecture for measurement in additive_search(task).measurements]

        assert found(1) == found(1)
        assert found(1)[0] == found(2)[0]
        assert found(1) != found(2)

    def test_losses_between_measured_widths_are_on_a_line(self):
        """A loss that is linear in the width is known from few probes: nothing is lost by interpolation."""
        problem = PlantedProblem(0)
        slopes = np.linspace(1.0, 3.0, 8)

        def linear(architecture):
            return float((slopes * (1 - np.array(architecture.kept_ratios(problem.space.shape)))).sum())

        problem.kl_of = linear
        few = additive_search(problem.task(num_measurements=8 + FEWEST_SOLUTIONS))
        assert len(few.probes) == 8, "one width per module"
        every = [{w: s * (1 - w / o[-1]) for w in o} for s, o in zip(slopes, problem.space.options, strict=True)]
        best = additive_optimum(problem.space, problem.budget, every)
        assert few.measurements[0].kl == pytest.approx(linear(problem.space.architecture(best)), rel=1e-3)

    def test_modules_that_stay_dense_are_not_probed(self, prepared):
        space = define_space(prepared.dense.shape, 7, 5, protect_first=1)
        problem = Problem(
            lambda architecture: 1 - sum(architecture.widths) / 1_000, space, Budget.from_keep(space.shape, 0.7, 0.05)
        )
        found = additive_search(problem.task(num_measurements=40))
        assert all(
            measurement.architecture.widths[:2] == (4, 48) for measurement in (*found.probes, *found.measurements)
        )

    def test_a_probe_that_fails_leaves_its_loss_to_its_neighbours(self):
        problem = PlantedProblem(0)
        problem.kl_of = lambda architecture: (
            None if architecture.widths[0] == 3 else PlantedProblem.deficit_of(problem, architecture)
        )
        found = additive_search(problem.task())
        assert any(probe.kl is None for probe in found.probes)
        assert found.best.kl is not None

    @pytest.mark.parametrize("num_measurements", [16, 28, 60])
    def test_nothing_is_measured_twice_however_many_measurements_there_are(self, prepared, num_measurements):
        """Not the dense model either, which would say nothing."""
        space = define_space(prepared.dense.shape, 2, 2)
        problem = Problem(
            lambda architecture: 1 - sum(architecture.widths) / 1_000, space, Budget.from_keep(space.shape, 0.6, 0.2)
        )
        found = additive_search(problem.task(num_measurements=num_measurements))
        assert len(set(problem.measured)) == len(problem.measured)
        assert len(found.probes) == 6
