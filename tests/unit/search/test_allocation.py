"""The largest allocation of a rule that meets every limit."""

import pytest
import torch

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError
from secateur.search.allocation import largest_within
from secateur.search.block_influence import layer_dropping_architecture
from secateur.search.global_threshold import global_threshold_architecture
from secateur.search.uniform import uniform_architecture, uniform_architectures, uniform_middle_architecture
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget


@pytest.fixture
def shape(prepared):
    return prepared.dense.shape


@pytest.fixture
def make(shape):
    return lambda **limits: Budget.from_config(shape, BudgetConfig(**limits))


def test_a_share_of_the_decoder_parameters_needs_no_looking(shape, make):
    asked = []
    largest_within(shape, make(keep=0.5), asked.append)
    assert asked == [shape.decoder_parameters // 2]


def test_the_largest_number_of_parameters_is_found_to_the_last_one(shape, make):
    """A rule that spends half of its parameters on heads that cost 32 bytes of cache each, of which five may stay."""
    head = shape.attention.parameters_per_group
    asked = []

    def allocate(parameters):
        asked.append(parameters)
        heads = parameters // (2 * head)
        return Architecture.from_widths((min(heads, 4), 8, min(max(heads - 4, 0), 4), 8, 0, 8))

    found = largest_within(shape, make(max_kv_cache_bytes=5 * 32), allocate)
    assert sum(found.widths[::2]) == 5
    assert asked[-1] == 6 * 2 * head - 1


def test_a_rule_that_cannot_get_below_a_limit_gives_nothing(shape, make):
    assert largest_within(shape, make(max_kv_cache_bytes=32), lambda _: Architecture.dense(shape)) is None
    assert largest_within(shape, make(max_kv_cache_bytes=32), lambda _: None) is None


LIMITS = {
    "parameters": {"max_params": 28_000},
    "flops": {"max_flops": 40_000},
    "cache": {"max_kv_cache_bytes": 200},
    "both": {"keep": 0.9, "max_flops": 45_000, "max_kv_cache_bytes": 300},
}
RULES = {
    "uniform": uniform_architecture,
    "uniform-wide": lambda shape, budget: uniform_architectures(shape, budget)[1],
    "uniform-middle": uniform_middle_architecture,
    "global-threshold": lambda shape, budget: global_threshold_architecture(
        shape, budget, [torch.rand(groups, generator=torch.Generator().manual_seed(groups)) for groups in (4, 48) * 3]
    ),
    "block-influence": lambda shape, budget: layer_dropping_architecture(shape, budget, torch.tensor([0.3, 0.1, 0.2])),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_meets_every_limit_and_could_not_have_a_tenth_more(shape, make, rule, limits):
    budget = make(**limits)
    used = budget.used(shape, rule(shape, budget))
    assert budget.allows(*used)
    dense = budget.used(shape, Architecture.dense(shape))
    # One head of all layers, or of one, is the coarsest step there is.
    assert any(
        limit.ceiling - amount < most / 4 for limit, amount, most in zip(budget.limits, used, dense, strict=True)
    )


def test_a_uniform_architecture_that_is_too_small_says_which_limit_to_raise(shape, make):
    with pytest.raises(BudgetError, match=r"no KV head .* at 20 bytes of KV cache per token; raise --max-kv-cache-b"):
        uniform_architecture(shape, make(max_kv_cache_bytes=20))
