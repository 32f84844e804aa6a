"""Our importances against Torch-Pruning's, an implementation by others (MIT): the same groups must stay.

What Torch-Pruning gets from us is numbers only: gradients of the summed next-token loss over the calibration set, as
`.grad` of every weight. Which tensors are cut together it finds itself, by tracing the model; the scores are its own.
Its importances run with `group_reduction="sum"`, without a normaliser, on linear layers (there are no others in these
groups); then

    ours             Torch-Pruning                               score of a group, summed over its slices
    taylor           GroupTaylorImportance                       sum |w dL/dw|          (LLM-Pruner's Element1)
    taylor_vector    GroupTaylorImportance(multivariable=True)   sum |row sum w dL/dw|  (LLM-Pruner's Vector)
    taylor_second    GroupHessianImportance                      sum w F w              (LLM-Pruner's Element2)
    l1, l2           GroupMagnitudeImportance(p)                 sum |w|^p

With as many KV heads as query heads its pruner removes what ours removes, channels and whole heads. With shared KV
heads it does not: it takes query heads out of every KV group and leaves all KV heads. There its pruner is compared on
FFN channels; for KV-head groups its dependency graph and its scores are, see the last test.

Models are traced without a KV cache and with eager attention. Torch-Pruning takes the concatenations of cache and
rotary embedding for concatenations of channels where sizes happen to fit, and then follows ever new indices without
end: always with a cache, and without one for two query heads per KV head, where twice the rows of k_proj are as many as
the columns of o_proj. With SDPA attention it does not see that KV heads are shared.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from secateur.data import Role
from secateur.model.shape import decoder_layers, group_tensors, module_of
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Unwrapped parameters detected")]

KINDS = ("taylor", "taylor_vector", "taylor_second", "l1", "l2")


@pytest.fixture(scope="module")
def tp():
    return pytest.importorskip("torch_pruning", reason="Torch-Pruning is missing: pip install 'secateur[compare]'")


@pytest.fixture(scope="module", params=[0, 1], ids=["seed 0", "seed 1"])
def calibrated(request, make_dense, make_tokens):
    """Give, for a number of query heads per KV head, (dense model, calibration set, our statistics)."""
    made = {}

    def make(queries_per_group):
        if queries_per_group not in made:
            dense = make_dense(
                queries_per_group=queries_per_group,
                seed=request.param,
                attn_implementation="eager",
                use_cache=False,
            )
            tokens = make_tokens(Role.CALIBRATION, num_windows=16)
            made[queries_per_group] = (dense, tokens, calibrate(dense, tokens, batch_tokens=96, seed=0, fisher=True))
        return made[queries_per_group]

    return make


def importance_of(tp, kind):
    settings = {"group_reduction": "sum", "normalizer": None, "target_types": [nn.Linear]}
    if kind in ("l1", "l2"):
        return tp.importance.GroupMagnitudeImportance(p=int(kind[1]), **settings)
    if kind == "taylor_second":
        return tp.importance.GroupHessianImportance(**settings)
    return tp.importance.GroupTaylorImportance(multivariable=kind == "taylor_vector", **settings)


def copy_with_gradients(dense, tokens, kind):
    """Copy the model with what the importance reads from `.grad`, in one plain backward pass per loss."""
    model = copy.deepcopy(dense.model).requires_grad_(True)
    # GroupHessianImportance reads its squares from `.grad`; its accumulate_grad keeps the last window's only.
    batches = tokens.tokens.split(1 if kind == "taylor_second" else len(tokens.tokens))
    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for batch in batches:
        model.zero_grad()
        logits = model(input_ids=batch).logits
        F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").backward()
        for name, parameter in model.named_parameters():
            squares[name] += parameter.grad.square()
    if kind == "taylor_second":
        for name, parameter in model.named_parameters():
            parameter.grad = squares[name]
    return model


def prune_by_torch_pruning(tp, model, tokens, importance, ratio, with_heads):
    """Let its pruner decide and cut, and give per module name the output indices that it removed."""
    attentions = [layer.self_attn for layer in model.model.layers]
    # The residual stream stays: every layer that writes to it is left alone.
    ignored = [model.lm_head, model.model.embed_tokens]
    ignored += [
        projection for layer in model.model.layers for projection in (layer.self_attn.o_proj, layer.mlp.down_proj)
    ]
    num_heads = {}
    for attention in attentions:
        if with_heads:
            num_heads |= {attention.q_proj: model.config.num_attention_heads}
            num_heads |= dict.fromkeys((attention.k_proj, attention.v_proj), model.config.num_key_value_heads)
        else:
            ignored += [attention.q_proj, attention.k_proj, attention.v_proj]
    pruner = tp.pruner.BasePruner(
        model,
        tokens.tokens[:1],
        importance,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        prune_num_heads=with_heads,
        prune_head_dims=False,
        num_heads=num_heads,
        ignored_layers=ignored,
        in_channel_groups={},  # its default dicts are shared by all pruners of a process, and written to
        out_channel_groups={},
        output_transform=lambda output: output.logits.sum(),
    )
    names = {module: name for name, module in model.named_modules()}
    removed = {}
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            if isinstance(dependency.target.module, nn.Linear):
                name = names[dependency.target.module]
                assert (dependency.handler == tp.prune_linear_out_channels) != name.endswith(("o_proj", "down_proj"))
                assert name not in removed
                removed[name] = sorted(indices)
        group.prune()
    return removed


def rows_removed(order, kept, size):
    """Give the rows of the groups that do not stay, `size` rows each."""
    return sorted(group * size + row for group in order[kept:].tolist() for row in range(size))


def bank_of(dense, statistics, kind, ratio):
    """Cut by our own importance; give the bank and the architecture."""
    blocks = [dense.shape.block(module_of(index)[1]) for index in range(dense.shape.num_modules)]
    widths = tuple(round((1 - ratio) * block.num_groups) for block in blocks)
    bank = build_bank(dense, statistics, [(width,) for width in widths], kind, reconstruction="none")
    return bank, Architecture.from_widths(widths)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_its_pruner_removes_the_same_channels_and_heads(tp, calibrated, kind, ratio):
    """One KV head per query head: indices removed from every projection, and the logits of what is left."""
    dense, tokens, statistics = calibrated(1)
    bank, architecture = bank_of(dense, statistics, kind, ratio)
    model = copy_with_gradients(dense, tokens, kind)
    removed = prune_by_torch_pruning(tp, model, tokens, importance_of(tp, kind), ratio, with_heads=True)
    expected = {}
    for index, width in enumerate(architecture.widths):
        layer, block = module_of(index)
        names = dense.family.attention if index % 2 == 0 else dense.family.mlp
        rows = rows_removed(bank.modules[index].order, width, dense.shape.group_size(block))
        tensors = group_tensors(decoder_layers(dense.model, dense.family)[layer], dense.family, block)
        expected |= {f"model.layers.{layer}.{names.module}.{name}": rows for name in tensors}
    assert removed == expected
    with torch.no_grad():
        ours = prune(dense, bank, architecture)(input_ids=tokens.tokens).logits
        torch.testing.assert_close(model(input_ids=tokens.tokens).logits, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_its_pruner_removes_the_same_channels_beside_shared_kv_heads(tp, calibrated, kind, ratio):
    """Four query heads per KV head: FFN channels."""
    dense, tokens, statistics = calibrated(4)
    bank, architecture = bank_of(dense, statistics, kind, ratio)
    model = copy_with_gradients(dense, tokens, kind)
    removed = prune_by_torch_pruning(tp, model, tokens, importance_of(tp, kind), ratio, with_heads=False)
    expected = {}
    for layer in range(dense.shape.num_layers):
        index = 2 * layer + 1
        rows = rows_removed(bank.modules[index].order, architecture.widths[index], 1)
        expected |= {f"model.layers.{layer}.mlp.{name}": rows for name in ("gate_proj", "up_proj", "down_proj")}
    assert removed == expected


@pytest.mark.parametrize("kind", KINDS)
def test_its_graph_and_scores_order_kv_head_groups_alike(tp, calibrated, kind):
    """Four query heads per KV head: which slices a KV-head group consists of, and the order of the groups.

    Asked what has to go with those columns of o_proj that belong to one KV head, its dependency graph must name the
    rows of q_proj, k_proj and v_proj that we cut. Where KV heads are shared its importance leaves k_proj and v_proj out
    of a group that is rooted elsewhere, so the score of a KV-head group is the sum of what it gives for three of its
    groups: rooted at o_proj (columns of o_proj, rows of q_proj), at k_proj and at v_proj. Ours in that is only that
    consecutive indices belong to one head.
    """
    dense, tokens, statistics = calibrated(4)
    model = copy_with_gradients(dense, tokens, kind)
    graph = tp.DependencyGraph().build_dependency(
        model, tokens.tokens[:1], output_transform=lambda output: output.logits.sum()
    )
    importance = importance_of(tp, kind)
    bank = build_bank(dense, statistics, [()] * dense.shape.num_modules, kind, reconstruction="none")
    num_groups, size = dense.shape.num_kv_heads, dense.shape.queries_per_group * dense.shape.head_dim
    for layer, block in enumerate(model.model.layers):
        attention = block.self_attn

        def group(projection, indices, attention=attention):
            outward = projection is attention.o_proj
            cut = tp.prune_linear_in_channels if outward else tp.prune_linear_out_channels
            return graph.get_pruning_group(projection, cut, list(indices))

        for head in range(num_groups):
            columns = range(head * size, (head + 1) * size)
            rows = range(head * dense.shape.head_dim, (head + 1) * dense.shape.head_dim)
            coupled = {
                dependency.target.module: sorted(set(indices))
                for dependency, indices in group(attention.o_proj, columns)
                if isinstance(dependency.target.module, nn.Linear)
            }
            assert coupled == {
                attention.o_proj: list(columns),
                attention.q_proj: list(columns),
                attention.k_proj: list(rows),
                attention.v_proj: list(rows),
            }
        scores = sum(
            importance(group(projection, range(num_rows))).view(num_groups, -1).sum(1)
            for projection, num_rows in (
                (attention.o_proj, attention.o_proj.in_features),
                (attention.k_proj, attention.k_proj.out_features),
                (attention.v_proj, attention.v_proj.out_features),
            )
        )
        ours = {
            "taylor": statistics[2 * layer].taylor,
            "taylor_vector": statistics[2 * layer].taylor_vector,
            "taylor_second": statistics[2 * layer].fisher,
        }
        if kind in ours:
            torch.testing.assert_close(scores, ours[kind], rtol=1e-4, atol=0)
        assert scores.argsort(descending=True).tolist() == bank.modules[2 * layer].order.tolist()
