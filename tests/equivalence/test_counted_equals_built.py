"""The cost counted equals the parameters, FLOPs and cache bytes of the pruned model."""

import numpy as np
import pytest
from torch import nn

from secateur.budget import BudgetConfig
from secateur.data import Role
from secateur.model.families import FAMILIES
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.reconstruction import RECONSTRUCTIONS
from secateur.pruning.surgery import prune
from secateur.space.cost import COSTS, Budget, cost_of


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("ratio", [1, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_cost_is_what_the_pruned_model_has(prepare, family, ratio, tied, architecture):
    prepared = prepare(family, ratio, tied)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    layers = pruned.model.layers
    cost = cost_of(prepared.dense.shape, architecture)

    assert cost.decoder_parameters == sum(p.numel() for p in layers.parameters())
    assert cost.total_parameters == sum(p.numel() for p in pruned.parameters())
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    assert cost.flops_per_token == 2 * sum(module.in_features * module.out_features for module in linear)
    cached = [module.weight.shape[0] for name, module in layers.named_modules() if name.endswith(("k_proj", "v_proj"))]
    assert cost.kv_cache_bytes_per_token == 2 * sum(cached)


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_space_counts_is_what_the_pruned_model_has(prepare, family, reconstruction, architecture):
    prepared = prepare(family, reconstruction=reconstruction)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    counted = prepared.space.decoder_parameters(prepared.space.levels(architecture))
    assert counted == sum(p.numel() for p in pruned.model.layers.parameters())
    assert cost_of(prepared.space.shape, architecture).total_parameters == sum(p.numel() for p in pruned.parameters())


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_budget_counts_is_what_the_pruned_model_has(prepare, family, reconstruction, architecture):
    """By limits, by tables over the space and by the architecture alone."""
    prepared = prepare(family, reconstruction=reconstruction)
    space, layers = prepared.space, prune(prepared.dense, prepared.bank, architecture).model.layers
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    cached = [module.weight.shape[0] for name, module in layers.named_modules() if name.endswith(("k_proj", "v_proj"))]
    built = {
        "decoder_parameters": sum(p.numel() for p in layers.parameters()),
        "total_parameters": sum(p.numel() for p in layers.parameters()) + space.shape.parameters_outside,
        "flops_per_token": 2 * sum(module.in_features * module.out_features for module in linear),
        "kv_cache_bytes_per_token": 2 * sum(cached),
    }
    limits = BudgetConfig(keep=0.5, max_params=1, max_flops=1, max_kv_cache_bytes=1)
    budget = Budget.from_config(prepared.dense.shape, limits)
    levels = space.levels(architecture)
    assert budget.used(space.shape, architecture) == space.used(budget, levels) == tuple(built.values())
    assert {name: int(space.cost(name, np.array([levels]))[0]) for name in COSTS} == built


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_linear_layers_say_their_own_size(prepare, family, reconstruction, architecture):
    prepared = prepare(family, reconstruction=reconstruction)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    for module in pruned.model.layers.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            assert module.bias is None or len(module.bias) == module.out_features


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS)
@pytest.mark.parametrize(
    "biases", [{"attention_bias": True}, {"mlp_bias": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_biases_of_the_output_projections_are_counted_once_per_block(
    make_dense, make_tokens, biases, reconstruction, architecture
):
    dense = make_dense("llama", **biases)
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{width} for width in architecture.widths], reconstruction=reconstruction)
    pruned = prune(dense, bank, architecture)
    shape = dense.shape.with_output_bias() if reconstruction == "bias" else dense.shape
    assert cost_of(shape, architecture).total_parameters == sum(p.numel() for p in pruned.parameters())
    if len(biases) == 2:
        assert shape == dense.shape, "both biases are there already, so none is gained"
