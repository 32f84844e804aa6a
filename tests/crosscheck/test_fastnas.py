"""What NVIDIA Model Optimizer's FastNAS (Apache-2.0) makes of our models, and how it counts them.

It searches, cuts and counts by code of its own. Held to be equal are what it counts and what we count, and the model it
exports and ours of the same architecture, cut by its importance: the norm of a group's columns of the output
projection. `benchmarks/fastnas.py`, which runs the search, is what is tested.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from secateur.data import Role
from secateur.inputs import Inputs
from secateur.pruning import orders
from secateur.pruning.bank import build_bank
from secateur.pruning.importance import order_by_scores
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning:modelopt"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fastnas.py"


@pytest.fixture(scope="module")
def fastnas():
    pytest.importorskip("modelopt", reason="NVIDIA Model Optimizer is missing: pip install 'secateur[compare]'")
    pytest.importorskip("torchprofile", reason="torchprofile is missing: pip install --no-deps torchprofile==0.0.4")
    spec = importlib.util.spec_from_file_location("benchmark_fastnas", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def inputs(request, prepare):
    prepared = prepare(request.param)
    budget = Budget.from_keep(prepared.dense.shape, keep=0.7, band=0.01)
    return Inputs(prepared.dense, prepared.walk, {Role.SELECTION: prepared.selection}, prepared.space, budget, {})


@pytest.fixture(scope="module", params=[False, True], ids=["ffn", "ffn+heads"])
def with_heads(request):
    return request.param


@pytest.fixture(scope="module")
def found(fastnas, inputs, with_heads):
    return fastnas.search(inputs, with_heads)


def test_it_searches_our_widths_inside_our_budget(fastnas, inputs, with_heads, found):
    architecture, dense = found.architecture, Architecture.dense(inputs.dense.shape)
    assert all(width in options for width, options in zip(architecture.widths, inputs.space.options, strict=True))
    assert min(architecture.widths) > 0
    assert architecture.widths[1::2] != dense.widths[1::2]
    assert with_heads or architecture.widths[::2] == dense.widths[::2]
    cost = cost_of(inputs.dense.shape, architecture)
    assert cost.decoder_parameters == fastnas.decoder_parameters(found.model, inputs.dense) <= inputs.budget.ceiling


def test_it_counts_what_we_count(fastnas, inputs, found):
    """Parameters exactly. What was saved in FLOPs to 5 %: it also counts attention scores and activation functions."""
    from modelopt.torch.nas.utils import inference_flops
    from modelopt.torch.utils import param_num_from_forward

    tokens = torch.zeros(1, 8, dtype=torch.long)
    architectures = (Architecture.dense(inputs.dense.shape), found.architecture)
    ours = [cost_of(inputs.dense.shape, architecture) for architecture in architectures]
    models = [fastnas.Tokens2Logits(model) for model in (inputs.dense.model, found.model)]
    parameters = [param_num_from_forward(model, args=tokens, unit=1) for model in models]
    assert parameters == [cost.total_parameters for cost in ours]
    dense, pruned = (inference_flops(model, dummy_input=tokens, unit=1) for model in models)
    saved = tokens.numel() * (ours[0].flops_per_token - ours[1].flops_per_token)
    assert saved <= dense - pruned <= 1.05 * saved


def test_its_export_is_our_model_cut_by_its_importance(prepare, monkeypatch, inputs, found):
    def output_norm(module):
        columns = module.output_weight.square().sum(0)
        return order_by_scores(columns.view(module.num_groups, -1).sum(1))

    monkeypatch.setitem(orders.IMPORTANCE, "output_norm", output_norm)
    statistics = prepare(inputs.dense.family.model_type).statistics
    widths = [(width,) for width in found.architecture.widths]
    bank = build_bank(inputs.dense, statistics, widths, "output_norm", reconstruction="none")
    tokens = inputs.sets[Role.SELECTION].tokens
    with torch.no_grad():
        ours = prune(inputs.dense, bank, found.architecture)(input_ids=tokens, use_cache=False).logits
        theirs = found.model(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
