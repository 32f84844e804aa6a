import itertools

import numpy as np
import pytest

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError, ConfigError
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, Budget, cost_of
from secateur.space.search_space import SearchSpace, define_space, divisible_heads, hardware_multiple, level_grid


def test_widths_are_spread_evenly_and_hold_both_ends():
    assert level_grid(48, 7, 8) == [0, 8, 16, 24, 32, 40, 48]
    assert level_grid(8, 9, 1) == list(range(9))
    assert level_grid(4, 9, 1) == [0, 1, 2, 3, 4]


def test_a_dense_width_off_the_grid_is_still_there():
    grid = level_grid(100, 5, 16)
    assert grid[-1] == 100
    assert all(width % 16 == 0 for width in grid[:-1])


@pytest.mark.parametrize(
    ("num_groups", "num_levels", "multiple"), [(2, 9, 1), (48, 2, 8), (10, 5, 64), (11008, 9, 64), (100, 5, 16)]
)
def test_grids_are_ascending_without_doubles(num_groups, num_levels, multiple):
    grid = level_grid(num_groups, num_levels, multiple)
    assert grid == sorted(set(grid))
    assert (grid[0], grid[-1]) == (0, num_groups)
    assert len(grid) <= num_levels


@pytest.mark.parametrize(("width", "multiple"), [(16, 1), (48, 1), (96, 2), (128, 2), (512, 8), (1024, 16)])
def test_alignment_leaves_a_small_model_at_least_48_steps(width, multiple):
    assert hardware_multiple(width) == multiple
    assert multiple == 1 or width / multiple >= 48
    assert width / (2 * multiple) < 48, "no coarser one would"


@pytest.mark.parametrize("width", [1025, 3072, 11008])
def test_alignment_of_wide_models_is_what_the_hardware_likes(width):
    assert hardware_multiple(width) == 64
    assert hardware_multiple(width, largest=256) == 256


@pytest.mark.parametrize(
    ("kv_heads", "queries", "devices", "counts"),
    [
        (8, 4, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (8, 4, 2, [0, 1, 2, 4, 6, 8]),
        (8, 4, 4, [0, 1, 2, 4, 8]),
        (8, 1, 4, [0, 4, 8]),
        (2, 8, 8, [0, 1, 2]),
    ],
)
def test_heads_that_devices_can_share(kv_heads, queries, devices, counts):
    """Every device has as many query heads, and either whole KV heads or a copy of one."""
    assert divisible_heads(kv_heads, queries, devices) == counts


def test_a_space_for_several_devices_has_widths_that_divide(prepared):
    space = define_space(prepared.dense.shape, 7, 5, multiple_of=3, tensor_parallel=2)
    assert space.options[0] == (0, 1, 2, 4)
    assert all(width % 6 == 0 for width in space.options[1])


def test_a_dense_model_that_does_not_divide_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"--tensor-parallel 3: the dense model's 8 query heads, 4 KV heads"):
        define_space(prepared.dense.shape, 7, 5, tensor_parallel=3)


def test_protected_layers_stay_dense(prepared):
    space = define_space(prepared.dense.shape, 7, 5, protect_first=1, protect_last=1)
    assert space.options[:2] == space.options[4:] == ((4,), (48,))
    assert len(space.options[2]) == 5
    assert len(space.options[3]) == 7


def test_protecting_every_layer_is_refused(prepared):
    with pytest.raises(ConfigError, match=r"must be below the number of layers 3, got 2 \+ 1"):
        define_space(prepared.dense.shape, 7, 5, protect_first=2, protect_last=1)


def test_levels_and_architectures_translate_both_ways(prepared, architecture):
    levels = prepared.space.levels(architecture)
    assert prepared.space.architecture(levels) == architecture


def test_a_width_outside_the_space_has_no_level(prepared):
    with pytest.raises(ValueError, match="not in tuple"):
        prepared.space.levels(Architecture.from_widths((4, 47) * 3))


def test_options_cost_what_their_shape_counts(prepared):
    plain = define_space(prepared.dense.shape, 7, 5)
    biased = define_space(prepared.dense.shape.with_output_bias(), 7, 5)
    assert biased.options == plain.options
    for with_bias, without in zip(biased.parameters, plain.parameters, strict=True):
        added = [one - other for one, other in zip(with_bias, without, strict=True)]
        assert added == [0, *[32] * (len(added) - 2), 0]


def test_the_smallest_step_is_the_cheapest_from_one_width_to_the_next(prepared):
    space = define_space(prepared.dense.shape, 5, 5)
    steps = [high - low for costs in space.parameters for low, high in itertools.pairwise(costs)]
    assert space.smallest_step(COSTS["decoder_parameters"]) == min(steps)
    assert define_space(prepared.dense.shape, 13, 2).smallest_step(COSTS["decoder_parameters"]) == 4 * 3 * 32, (
        "four channels of 3 * 32 weights"
    )


def test_a_space_of_one_architecture_has_no_step(prepared):
    space = SearchSpace(shape=prepared.dense.shape, options=((2,), (24,)) * 3)
    assert space.smallest_step(COSTS["decoder_parameters"]) == 0


class TestABudgetThatCannotBeMet:
    @pytest.fixture
    def coarse(self, prepared):
        return define_space(prepared.dense.shape, ffn_levels=2, kv_levels=2, protect_first=1)

    @pytest.mark.parametrize("keep", [0.05, 0.2, 0.45, 0.58, 0.9])
    @pytest.mark.parametrize("band", [0.01, 1e-3, 2e-4])
    def test_is_refused_with_one_that_can(self, coarse, keep, band):
        budget = Budget.from_keep(coarse.shape, keep, band)
        with pytest.raises(BudgetError) as caught:
            coarse.check(budget)
        named = float(str(caught.value).split("--keep ")[1].split(",")[0])
        coarse.check(Budget.from_keep(coarse.shape, named, band))
        assert "\n" not in str(caught.value)

    def test_names_the_nearest_one(self, coarse):
        dense = coarse.shape.decoder_parameters
        budget = Budget.from_keep(coarse.shape, 0.2, 0.01)
        first_layer = coarse.shape.attention.parameters + coarse.shape.mlp.parameters
        assert coarse.nearest_keep(budget) == pytest.approx(first_layer / dense)

    def test_is_no_trouble_where_the_band_holds_something(self, prepared):
        for keep in (0.25, 0.5, 0.75, 0.9, 1.0):
            prepared.space.check(Budget.from_keep(prepared.dense.shape, keep, 0.02 / keep))

    @pytest.mark.parametrize(
        ("limits", "words"),
        [
            ({"max_params": 6_000}, r"--max-params allows 6,000 parameters, .* has 16,992"),
            ({"max_flops": 20_000}, r"--max-flops allows 20,000 FLOPs per token, .* has 21,504"),
            ({"keep": 0.5, "max_kv_cache_bytes": 100}, r"--max-kv-cache-bytes allows 100 bytes .* has 128"),
        ],
    )
    def test_in_something_else_than_parameters_is_refused_with_the_least_that_there_is(self, coarse, limits, words):
        budget = Budget.from_config(coarse.shape, BudgetConfig(**limits))
        with pytest.raises(BudgetError, match=words):
            coarse.check(budget)


class TestCosts:
    @pytest.mark.parametrize("name", COSTS)
    def test_of_many_architectures_are_those_of_each(self, prepared, name):
        space, rng = prepared.space, np.random.default_rng(0)
        levels = np.array([[rng.integers(len(options)) for options in space.options] for _ in range(20)])
        each = [getattr(cost_of(space.shape, space.architecture(tuple(row))), name) for row in levels.tolist()]
        assert len(set(each)) > 5
        assert space.cost(name, levels).tolist() == each

    def test_used_of_a_budget_are_in_the_order_of_its_limits(self, prepared):
        budget = Budget.from_config(prepared.dense.shape, BudgetConfig(max_kv_cache_bytes=90, max_flops=70))
        levels = (1, 2, 3, 4, 0, 6)
        cost = cost_of(prepared.dense.shape, prepared.space.architecture(levels))
        assert [limit.cost.name for limit in budget.limits] == ["flops_per_token", "kv_cache_bytes_per_token"]
        assert prepared.space.used(budget, levels) == (cost.flops_per_token, cost.kv_cache_bytes_per_token)

    def test_the_smallest_steps_are_of_those_modules_that_count(self, prepared):
        budget = Budget.from_config(prepared.dense.shape, BudgetConfig(max_kv_cache_bytes=90, max_flops=70))
        assert prepared.space.smallest_steps(budget) == (2 * 8 * 96, 2 * 2 * 8)
