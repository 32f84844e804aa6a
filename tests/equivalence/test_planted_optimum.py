"""A planted optimum is found, and a predictor fed noise reports poor quality instead of confidence."""

from functools import cache

import numpy as np
import pytest

from secateur.model.shape import BlockShape, DenseShape
from secateur.search.rounds import search_rounds
from secateur.space.candidate import Measurement
from secateur.space.cost import Budget
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import define_space

NUM_MEASUREMENTS = 90
SHAPE = DenseShape(
    hidden_size=64,
    num_layers=4,
    num_query_heads=16,
    num_kv_heads=8,
    head_dim=8,
    ffn_width=128,
    vocab_size=100,
    attention=BlockShape(num_groups=8, parameters_per_group=3072, parameters_constant=64, weights_per_group=3072),
    mlp=BlockShape(num_groups=128, parameters_per_group=192, parameters_constant=64, weights_per_group=192),
    parameters_outside=12_864,
    mixed_attention=False,
)
SPACE = define_space(SHAPE, ffn_levels=9, kv_levels=9)
BUDGET = Budget.from_keep(SHAPE, 0.6, 0.01)


class PlantedProblem:
    """A loss that is least at one architecture of the band: whatever a module has below the planted width costs.

    The reconstruction errors that the search is told know nothing of the plant, so it has to be learned.
    """

    def __init__(self, seed, noise=0.0):
        rng = np.random.default_rng(seed)
        # Far from uniform, where half of all random draws would be near it.
        drawn = sample_architectures(SPACE, BUDGET, 20, seed=1_000 + seed)
        self.planted = max(drawn, key=lambda architecture: np.std(architecture.kept_ratios(SHAPE)))
        self.weights = rng.uniform(0.5, 2.0, size=SPACE.num_modules)
        self.noise = noise
        self.measured = []

    @property
    def errors(self):
        return [{width: 0.1 * (1 - width / options[-1]) for width in options} for options in SPACE.options]

    def kl(self, architecture):
        if self.noise:
            return float(np.random.default_rng(int(architecture.key, 16)).lognormal(sigma=self.noise))
        deficit = np.array(self.planted.kept_ratios(SHAPE)) - np.array(architecture.kept_ratios(SHAPE))
        return 0.01 + float((self.weights * np.maximum(deficit, 0)).sum())

    def distance(self, architecture):
        """Mean absolute difference of kept ratios to the plant."""
        return np.abs(np.array(self.planted.kept_ratios(SHAPE)) - np.array(architecture.kept_ratios(SHAPE))).mean()

    def measure_batch(self, candidates):
        self.measured += [candidate.architecture.key for candidate in candidates]
        return [
            Measurement(
                architecture=candidate.architecture,
                protocol="planted",
                status="measured",
                kl=self.kl(candidate.architecture),
                loss=1.0,
                seconds=0.0,
            )
            for candidate in candidates
        ]

    def search(self, seed=0, measure_batch=None, num_measurements=NUM_MEASUREMENTS, num_rounds=3):
        return search_rounds(
            SPACE,
            BUDGET,
            self.errors,
            measure_batch or self.measure_batch,
            num_measurements=num_measurements,
            num_rounds=num_rounds,
            initial_share=0.35,
            seed=seed,
        )


@cache
def searched(seed):
    """A problem and what a search of it found; made once."""
    problem = PlantedProblem(seed)
    return problem, problem.search()


@pytest.mark.parametrize("seed", range(3))
def test_the_search_comes_much_closer_to_a_planted_optimum_than_chance(seed):
    problem, found = searched(seed)
    best = found.best.architecture
    # One set of random draws may be lucky; the median of five is what chance gives.
    luckiest = [
        min(sample_architectures(SPACE, BUDGET, NUM_MEASUREMENTS, seed=100 * seed + draw), key=problem.kl)
        for draw in range(5)
    ]
    assert problem.kl(best) < 0.5 * np.median([problem.kl(architecture) for architecture in luckiest])
    assert problem.distance(best) < 0.7 * np.median([problem.distance(architecture) for architecture in luckiest])


def test_the_predictor_gets_better_with_the_rounds_and_says_so():
    _, found = searched(0)
    qualities = [record.quality for record in found.rounds]
    assert qualities[-1].kendall_tau > 0.5
    assert [quality.num_pairs for quality in qualities] == sorted({quality.num_pairs for quality in qualities})
    best = [record.best_kl for record in found.rounds]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_predictor_fed_noise_does_not_claim_to_rank(seed):
    found = PlantedProblem(seed, noise=1.0).search(seed=seed, num_rounds=2)
    assert abs(found.rounds[-1].quality.kendall_tau) < 0.25


def test_every_measurement_is_spent_once_and_inside_the_band():
    problem, found = searched(0)
    assert len(problem.measured) == len(set(problem.measured)) == len(found.measurements) == NUM_MEASUREMENTS
    for measurement in found.measurements:
        assert BUDGET.admits(SPACE.decoder_parameters(SPACE.levels(measurement.architecture)))


def test_the_same_seed_proposes_the_same_and_another_seed_does_not():
    one, two, other = PlantedProblem(0), PlantedProblem(0), PlantedProblem(0)
    one.search(seed=5, num_measurements=40, num_rounds=1)
    two.search(seed=5, num_measurements=40, num_rounds=1)
    other.search(seed=6, num_measurements=40, num_rounds=1)
    assert one.measured == two.measured
    assert set(one.measured) != set(other.measured)


def test_the_order_of_measuring_changes_nothing():
    (straight, first), reversed_ = searched(0), PlantedProblem(0)
    second = reversed_.search(measure_batch=lambda batch: reversed_.measure_batch(list(reversed(batch))))
    assert set(straight.measured) == set(reversed_.measured)
    assert first.best == second.best
    assert first.rounds == second.rounds
