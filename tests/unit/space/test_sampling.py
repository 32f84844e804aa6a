import numpy as np
import pytest

from secateur.budget import BudgetConfig
from secateur.space.cost import COSTS, Budget
from secateur.space.latency_table import LatencyTable, PhaseLatency
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
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
    assert space.smallest_step(COSTS["decoder_parameters"]) > 6 * 100

    def inside():
        rng = np.random.default_rng(0)
        repaired = [repair(space, tuple(rng.integers(4, size=6).tolist()), budget, rng) for _ in range(200)]
        return [levels for levels in repaired if levels is not None]

    found = inside()
    assert all(budget.admits(space.decoder_parameters(levels)) for levels in found)
    monkeypatch.setattr("secateur.space.repair.MAX_EXCHANGES", 0)
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


# Of the tiny decoder's 38,624 parameters, 64,512 FLOPs, 384 bytes of cache, and 20 ms by the table below.
COMBINATIONS = {
    "parameters": {"max_params": 25_000},
    "flops": {"max_flops": 40_000},
    "cache": {"max_kv_cache_bytes": 192},
    "latency": {"max_decode_ms": 12.5},
    "keep and cache": {"keep": 0.6, "max_kv_cache_bytes": 160},
    "cache that is no limit": {"keep": 0.5, "max_kv_cache_bytes": 384},
    "all": {"keep": 0.7, "max_params": 30_000, "max_flops": 45_000, "max_kv_cache_bytes": 288, "max_decode_ms": 15},
}


class TestSeveralLimits:
    @pytest.fixture
    def limited(self, prepared):
        """Times that are no round numbers, and alike for the two widest MLPs."""
        phase = PhaseLatency(attention=(1.1, 1.7, 2.3, 3.1), mlp=(0.7, 1.1, 1.9, 1.9), outside=5.0)
        table = LatencyTable(
            device="none",
            dtype="float32",
            prompt_tokens=8,
            batch=1,
            repeats=1,
            kv_heads=(1, 2, 3, 4),
            ffn_widths=(12, 24, 36, 48),
            prefill=phase,
            decode=phase,
            seconds=0.0,
        )

        def make(limits):
            costs = COSTS | table.costs
            space = define_space(prepared.dense.shape, 9, 5, costs=costs)
            return space, Budget.from_config(space.shape, BudgetConfig(band=0.1, **limits), costs)

        return make

    @pytest.mark.parametrize("limits", COMBINATIONS.values(), ids=COMBINATIONS)
    def test_hold_for_all_that_is_drawn_repaired_and_mutated(self, limited, limits):
        space, budget = limited(limits)
        drawn = [space.levels(each) for each in sample_architectures(space, budget, 15, seed=0)]
        assert len(set(drawn)) == 15
        rng = np.random.default_rng(0)
        random = [tuple(int(rng.integers(len(options))) for options in space.options) for _ in range(50)]
        repaired = [repair(space, levels, budget, rng) for levels in random]
        mutated = [mutate(space, levels, budget, 3, rng) for levels in drawn]
        found = [levels for levels in (*drawn, *repaired, *mutated) if levels is not None]
        assert len(found) > 60
        assert all(budget.admits(*space.used(budget, levels)) for levels in found)

    @pytest.mark.parametrize("limits", COMBINATIONS.values(), ids=COMBINATIONS)
    def test_leave_nothing_unused_that_another_step_would_fit_into(self, limited, limits):
        space, budget = limited(limits)
        for architecture in sample_architectures(space, budget, 12, seed=1):
            levels = space.levels(architecture)
            for module in range(space.num_modules):
                if levels[module] + 1 < len(space.options[module]):
                    raised = (*levels[:module], levels[module] + 1, *levels[module + 1 :])
                    used = zip(space.used(budget, raised), budget.limits, strict=True)
                    # Sums of times are right to rounding.
                    assert any(amount > limit.ceiling * (1 - 1e-9) for amount, limit in used)

    def test_only_narrow_what_counts_in_them(self, limited):
        """A limit on the KV cache is no reason to cut an MLP."""
        space, budget = limited(COMBINATIONS["cache"])
        for architecture in sample_architectures(space, budget, 10, seed=0):
            assert architecture.widths[1::2] == (48,) * 3

    def test_that_the_narrowest_blocks_exceed_cannot_be_repaired(self, limited):
        space, budget = limited({"max_decode_ms": 4.9})
        assert repair(space, (4, 8) * 3, budget, np.random.default_rng(0)) is None
