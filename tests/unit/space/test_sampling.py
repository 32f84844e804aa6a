import numpy as np
import pytest

from secateur.space import sampling
from secateur.space.cost import Budget
from secateur.space.sampling import mutate, repair, sample_architectures
from secateur.space.search_space import SearchSpace, define_space

KEEPS = (0.25, 0.5, 0.75, 0.9)


@pytest.fixture(params=[0, 1], ids=["free", "first-protected"])
def space(prepared, request):
    return define_space(prepared.dense.shape, 9, 5, protect_first=request.param)


def budget_of(space, keep):
    """A band of 2 % of the dense parameters, however small the budget: steps of the tiny decoder are coarse."""
    keep = keep if len(space.options[0]) > 1 else max(keep, 0.5)
    return Budget.from_keep(space.shape, keep, 0.02 / keep)


@pytest.mark.parametrize("keep", KEEPS)
def test_samples_are_distinct_and_inside_the_band(space, keep):
    budget = budget_of(space, keep)
    drawn = sample_architectures(space, budget, 20, seed=0)
    assert len(drawn) == len({architecture.key for architecture in drawn}) == 20
    for architecture in drawn:
        assert budget.admits(space.decoder_parameters(space.levels(architecture)))


def test_the_seed_decides_what_is_drawn(space):
    budget = budget_of(space, 0.5)
    assert sample_architectures(space, budget, 20, seed=1) == sample_architectures(space, budget, 20, seed=1)
    assert sample_architectures(space, budget, 20, seed=1) != sample_architectures(space, budget, 20, seed=2)


def test_samples_hold_near_uniform_ones_and_ones_with_whole_blocks_gone(prepared):
    space = define_space(prepared.dense.shape, 9, 5)
    drawn = sample_architectures(space, budget_of(space, 0.5), 200, seed=0)
    spreads = [np.std(architecture.kept_ratios(space.shape)) for architecture in drawn]
    assert min(spreads) < 0.1
    assert any(0 in architecture.widths for architecture in drawn)


def test_a_band_with_few_architectures_gives_those_and_ends(prepared):
    space = define_space(prepared.dense.shape, 2, 2)
    budget = Budget.from_keep(space.shape, 1.0, 0.01)
    drawn = sample_architectures(space, budget, 20, seed=0)
    assert [architecture.widths for architecture in drawn] == [(4, 48) * 3]


@pytest.mark.parametrize("keep", KEEPS)
def test_repair_and_mutation_end_in_the_band_and_in_the_space(space, keep):
    budget = budget_of(space, keep)
    rng = np.random.default_rng(0)
    repaired = 0
    for _ in range(100):
        levels = tuple(int(rng.integers(len(options))) for options in space.options)
        for moved in (repair(space, levels, budget, rng), mutate(space, levels, budget, 3, rng)):
            if moved is None:
                continue
            repaired += 1
            assert budget.admits(space.decoder_parameters(moved))
            assert space.levels(space.architecture(moved)) == moved
    assert repaired > 100


def test_where_single_steps_miss_a_narrow_band_pairs_of_them_meet_it(prepared, monkeypatch):
    """Steps that differ in cost, one up and another down, move by less than any single one."""
    space = SearchSpace(shape=prepared.dense.shape, options=((1, 2, 3, 4), (7, 24, 41, 48)) * 3)
    budget = Budget.of_decoder_parameters(ceiling=21_000, floor=20_900)
    assert space.smallest_step > 6 * 100

    def inside():
        rng = np.random.default_rng(0)
        repaired = [repair(space, tuple(rng.integers(4, size=6).tolist()), budget, rng) for _ in range(200)]
        return [levels for levels in repaired if levels is not None]

    found = inside()
    assert all(budget.admits(space.decoder_parameters(levels)) for levels in found)
    monkeypatch.setattr(sampling, "MAX_EXCHANGES", 0)
    assert len(found) > 1.5 * len(inside())


def test_repair_leaves_alone_what_already_fills_the_budget(space):
    """Filling comes before leaving alone: nothing in the band is left that another step would still fit into."""
    budget = budget_of(space, 0.5)
    rng = np.random.default_rng(0)
    for architecture in sample_architectures(space, budget, 20, seed=0):
        levels = space.levels(architecture)
        assert repair(space, levels, budget, rng) == levels


def test_mutation_gives_something_else_most_of_the_time(space):
    budget = budget_of(space, 0.5)
    rng = np.random.default_rng(0)
    parent = space.levels(sample_architectures(space, budget, 1, seed=0)[0])
    children = {mutate(space, parent, budget, 1, rng) for _ in range(100)} - {None, parent}
    assert len(children) > 10


def test_protected_layers_are_never_moved(prepared):
    space = define_space(prepared.dense.shape, 9, 5, protect_last=1)
    for architecture in sample_architectures(space, Budget.from_keep(space.shape, 0.6, 0.02), 50, seed=0):
        assert architecture.widths[-2:] == (4, 48)
