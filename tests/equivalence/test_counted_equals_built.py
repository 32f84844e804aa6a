"""The cost counted equals the parameters, FLOPs and cache bytes of the pruned model."""

import numpy as np
import pytest
from torch import nn

from secateur.budget import BudgetConfig
from secateur.data import Role
from secateur.model.shape import decoder_layers
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.reconstruction import RECONSTRUCTIONS
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, Budget, cost_of

KEYS_AND_VALUES = ("k_proj", "v_proj", "c_attn.key", "c_attn.value")
# The second has biases behind its blocks already.
FORMS = [*(("llama", name) for name in RECONSTRUCTIONS), ("gpt2", "bias")]


def built(pruned, family):
    """What a pruned model has of everything that is counted, by its own tensors."""
    layers = decoder_layers(pruned, family)
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    cached = [module.weight.shape[0] for name, module in layers.named_modules() if name.endswith(KEYS_AND_VALUES)]
    return {
        "decoder_parameters": sum(p.numel() for p in layers.parameters()),
        "total_parameters": sum(p.numel() for p in pruned.parameters()),
        "flops_per_token": 2 * sum(module.in_features * module.out_features for module in linear),
        "kv_cache_bytes_per_token": 2 * sum(cached),
    }


@pytest.mark.parametrize(("family", "ratio", "tied"), [("llama", 4, False), ("qwen3", 1, True), ("gpt2", 1, True)])
def test_cost_is_what_the_pruned_model_has(prepare, family, ratio, tied, architecture):
    prepared = prepare(family, ratio, tied)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    cost = cost_of(prepared.dense.shape, architecture)
    assert {name: getattr(cost, name) for name in COSTS} == built(pruned, prepared.dense.family)


@pytest.mark.parametrize(("family", "reconstruction"), FORMS)
def test_what_the_space_counts_is_what_the_pruned_model_has(prepare, family, reconstruction, architecture):
    prepared = prepare(family, reconstruction=reconstruction)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    counted = prepared.space.decoder_parameters(prepared.space.levels(architecture))
    assert counted == sum(p.numel() for p in decoder_layers(pruned, prepared.dense.family).parameters())
    assert cost_of(prepared.space.shape, architecture).total_parameters == sum(p.numel() for p in pruned.parameters())


@pytest.mark.parametrize(("family", "reconstruction"), FORMS)
def test_what_a_budget_counts_is_what_the_pruned_model_has(prepare, family, reconstruction, architecture):
    """By limits, by tables over the space and by the architecture alone."""
    prepared = prepare(family, reconstruction=reconstruction)
    space = prepared.space
    expected = built(prune(prepared.dense, prepared.bank, architecture), prepared.dense.family)
    limits = BudgetConfig(keep=0.5, max_params=1, max_flops=1, max_kv_cache_bytes=1)
    budget = Budget.from_config(prepared.dense.shape, limits)
    levels = space.levels(architecture)
    assert budget.used(space.shape, architecture) == space.used(budget, levels) == tuple(expected.values())
    assert {name: int(space.cost(name, np.array([levels]))[0]) for name in COSTS} == expected


@pytest.mark.parametrize(("family", "reconstruction"), [("llama", "bias"), ("gpt2", "least_squares")])
def test_linear_layers_say_their_own_size(prepare, family, reconstruction, architecture):
    prepared = prepare(family, reconstruction=reconstruction)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    for module in decoder_layers(pruned, prepared.dense.family).modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            assert module.bias is None or len(module.bias) == module.out_features


@pytest.mark.parametrize("reconstruction", ["least_squares", "bias"])
@pytest.mark.parametrize("widths", [(3, 32, 1, 48, 4, 16), (0, 40, 2, 0, 0, 0)], ids=["varied", "gone"])
@pytest.mark.parametrize(
    "biases", [{"attention_bias": True}, {"mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_biases_of_the_output_projections_are_counted_once_per_block(
    make_dense, make_tokens, biases, widths, reconstruction
):
    architecture = Architecture.from_widths(widths)
    dense = make_dense("llama", **biases)
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{width} for width in architecture.widths], reconstruction=reconstruction)
    pruned = prune(dense, bank, architecture)
    shape = dense.shape.with_output_bias() if reconstruction == "bias" else dense.shape
    assert cost_of(shape, architecture).total_parameters == sum(p.numel() for p in pruned.parameters())
    if len(biases) == 2:
        assert shape == dense.shape, "both biases are there already, so none is gained"
