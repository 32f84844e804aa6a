"""Architectures whose layers are all alike."""

import itertools
import math

import numpy as np
import pytest

from secateur.search.additive import additive_optimum
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.uniform_space import Size, define_uniform_space


@pytest.fixture(scope="module")
def shape(make_dense):
    return make_dense(num_hidden_layers=5).shape


@pytest.fixture(params=[0, 1], ids=["free", "first-protected"])
def space(shape, request):
    return define_uniform_space(shape, (1, 2, 3, 4), range(4, 49, 4), protect_first=request.param)


@pytest.fixture
def budget(space):
    exact = Budget.from_keep(space.shape, 0.6, 0.003)
    return exact.widened(*space.smallest_steps(exact))


def alike(architecture: Architecture) -> bool:
    kept = {layer for layer in architecture.layers if layer.kv_heads or layer.ffn_width}
    return len(kept) == 1 and all(layer.kv_heads and layer.ffn_width for layer in kept)


def everything(space):
    """Every architecture of the space, by trying all layers, heads and widths."""
    layers = range(space.shape.num_layers)
    for count in layers:
        for kept in itertools.combinations(layers, count + 1):
            for heads, ffn in itertools.product(range(1, 5), range(1, len(space.options[1]))):
                if space.protected <= set(kept):
                    yield space.put_together(Size(count + 1, heads, ffn), kept)


def test_counts_what_is_there(space, budget):
    inside = [levels for levels in everything(space) if budget.admits(*space.used(budget, levels))]
    assert space.count(budget) == len(inside) > 20


def test_draws_are_distinct_alike_and_inside_the_band(space, budget):
    drawn = sample_architectures(space, budget, 20, seed=0)
    assert len({architecture.key for architecture in drawn}) == 20
    for architecture in drawn:
        assert alike(architecture)
        assert budget.admits(cost_of(space.shape, architecture).decoder_parameters)
        assert all(architecture.layers[layer].kv_heads for layer in space.protected)
    assert len({sum(1 for layer in each.layers if layer.kv_heads) for each in drawn}) > 1, "of several depths"


def test_all_there_are_can_be_drawn(shape):
    space = define_uniform_space(shape, (4,), (48,))
    budget = Budget.from_keep(shape, 0.6, 0.003)
    drawn = sample_architectures(space, budget, 100, seed=3)
    assert len(drawn) == space.count(budget) == math.comb(5, 3)


def test_repair_makes_layers_alike_and_keeps_what_is(space, budget):
    rng = np.random.default_rng(0)
    for _ in range(100):
        levels = tuple(int(rng.integers(len(options))) for options in space.options)
        found = repair(space, levels, budget, rng)
        assert alike(space.architecture(found))
        assert budget.admits(*space.used(budget, found))
        assert repair(space, found, budget, rng) == found


def test_repair_keeps_the_layers_that_keep_most(shape):
    space = define_uniform_space(shape, (4,), (48,))
    budget = Budget.from_keep(shape, 0.4, 0.003)
    widest = Architecture.from_widths((0, 0, 4, 48, 0, 48, 4, 48, 0, 0))
    levels = repair(space, space.levels(widest), budget, np.random.default_rng(0))
    assert space.architecture(levels).widths == (0, 0, 4, 48, 0, 0, 4, 48, 0, 0)


def test_mutation_reaches_other_layers_and_other_sizes(space, budget):
    rng = np.random.default_rng(1)
    start = space.levels(sample_architectures(space, budget, 1, seed=0)[0])
    size, layers = space.taken_apart(start)
    children = [mutate(space, start, budget, 1, rng) for _ in range(200)]
    parts = [space.taken_apart(child) for child in children]
    assert all(budget.admits(*space.used(budget, child)) for child in children)
    assert any(other != size for other, _ in parts)
    assert all(space.protected <= set(kept) for _, kept in parts)
    assert len(layers) == 5 or any(other == size and kept != layers for other, kept in parts)


@pytest.mark.parametrize("seed", range(4))
def test_the_additive_optimum_is_that_of_trying_everything(space, budget, seed):
    rng = np.random.default_rng(seed)
    losses = [{width: float(rng.random()) for width in options} for options in space.options]

    def summed(levels):
        return sum(losses[module][space.options[module][level]] for module, level in enumerate(levels))

    inside = [levels for levels in everything(space) if budget.admits(*space.used(budget, levels))]
    found = additive_optimum(space, budget, losses)
    assert found in inside
    assert summed(found) == pytest.approx(min(map(summed, inside)))


def test_a_band_of_one_step_holds_a_width_for_every_depth_and_number_of_heads_that_leave_room(space, budget):
    for count, heads in itertools.product(range(1, 6), range(1, 5)):
        of_layer = space.parameters[0][heads]
        narrowest, widest = count * (of_layer + space.parameters[1][1]), count * (of_layer + space.parameters[1][-1])
        if narrowest <= budget.ceiling and widest >= budget.floor:
            assert any((size.num_layers, size.heads) == (count, heads) for size in space.sizes(budget))


def test_widths_that_no_architecture_of_the_band_has_leave_the_space(space, budget):
    left = space.at(budget)
    assert left.count(budget) == space.count(budget)
    used = {left.options[1][size.ffn] for size in left.sizes(budget)}
    assert set(left.options[1]) == used | {0, 48}


def test_so_many_widths_are_left_as_a_bank_is_to_hold(space, budget):
    few = space.at(budget, most=2)
    assert len(few.options[1]) <= 4 < len(space.at(budget).options[1])
    assert 0 < few.count(budget) < space.count(budget)


def test_the_smallest_has_what_is_protected_and_one_layer_at_least(space):
    size, layers = space.taken_apart(space.smallest)
    assert (size.heads, size.ffn) == (1, 1)
    assert layers == (0,)


def test_a_share_that_can_be_had_is_named(space):
    assert space.nearest_keep(Budget.from_keep(space.shape, 0.001, 0.003)) == pytest.approx(
        (space.parameters[0][1] + space.parameters[1][1]) / space.shape.decoder_parameters
    )
