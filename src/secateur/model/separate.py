"""Separate what checkpoints store fused, and put it together again.

Everything that cuts, measures or refits knows one kind of projection, `nn.Linear`, whose outputs or inputs are groups.
So a dense model's fused projections, transposed weights, MLPs without a module and mixtures of experts are rewritten
once, when it is loaded, and written back when a pruned one is exported. What the model computes is the same.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.model.families import Experts, Family, Stacked
from secateur.model.mixture import ExpertLayout, Mixture, stock_weights
from secateur.model.shape import kv_head_count


class SeparateProjections(nn.Module):
    """Several projections of one input; gives what the fused one gave."""

    def __init__(self, parts: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([part(hidden) for part in self.children()], dim=-1)


def separate(model: PreTrainedModel, family: Family) -> None:
    """Rewrite a dense model in place so that every projection is a linear layer of its own."""
    heads, kv_heads = model.config.num_attention_heads, kv_head_count(model, family)
    for layer in model.get_submodule(family.layers).children():
        if family.mlp.gathered:
            _gather(layer, *family.mlp.gathered)
        if family.mlp.experts:
            _mix(layer, family.mlp.module, family.mlp.experts, model.config)
        blocks = ((family.attention.module, family.attention.stacked), (family.mlp.module, family.mlp.stacked))
        for path, stacked in blocks:
            block = layer.get_submodule(path)
            if family.conv1d:
                for name, child in list(block.named_children()):
                    if isinstance(child, Conv1D):
                        setattr(block, name, _linear(child.weight.T, child.bias))
            if stacked is not None:
                shares = {"query": heads, "key": kv_heads, "value": kv_heads}
                _separate(block, stacked, [shares.get(part, 1) for part in stacked.parts])


def joined_state(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Give the tensors of a separated model, cut or not, under the names and in the layout of its checkpoint."""
    joined: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        if not path.startswith(f"{family.layers}."):
            joined[name] = tensor
            continue
        prefix = ".".join(path.split(".")[: family.layers.count(".") + 2])
        inside = path.removeprefix(f"{prefix}.")
        for block, stacked in ((family.attention, family.attention.stacked), (family.mlp, family.mlp.stacked)):
            if stacked and inside.startswith(f"{block.module}.{stacked.name}."):
                whole = f"{prefix}.{block.module}.{stacked.name}"
                parts = [state[f"{whole}.{part}.{kind}"] for part in stacked.parts]
                joined[f"{whole}.{kind}"] = torch.cat(parts)
                break
        else:
            gathered = family.mlp.gathered
            if gathered and inside.startswith(f"{family.mlp.module}."):
                inside = inside.removeprefix(f"{family.mlp.module}.")
            joined[f"{prefix}.{inside}.{kind}"] = tensor
    if family.conv1d:
        for name, tensor in joined.items():
            if name.startswith(f"{family.layers}.") and name.endswith(".weight") and tensor.ndim == 2:
                joined[name] = tensor.T
    return dict(_with_stock_experts(joined, family) if family.mlp.experts else joined)


def _with_stock_experts(state: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """Put the wide MLP of every layer that has one back as a mixture."""
    names = family.mlp.experts
    assert names is not None, "only called where the family has experts"
    stock = dict(state)
    parts = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj", "router": "router"}
    for router in [name for name in state if name.endswith(f".{family.mlp.module}.router.weight")]:
        block = router.removesuffix(".router.weight")
        weights = {part: stock.pop(f"{block}.{name}.weight") for part, name in parts.items()}
        made = stock_weights(weights, ExpertLayout.of(weights, whole=names.whole))
        stock[f"{block}.{names.router}.weight"] = made.pop("router")
        stock |= {f"{block}.{names.module}.{name}": tensor for name, tensor in made.items()}
    return stock


def _mix(layer: nn.Module, path: str, names: Experts, config: PreTrainedConfig) -> None:
    normalized = bool(getattr(config, names.normalized)) if names.normalized else True
    layer.set_submodule(path, Mixture(layer.get_submodule(path), names, normalized=normalized))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear


def _separate(block: nn.Module, stacked: Stacked, shares: list[int]) -> None:
    fused = block.get_submodule(stacked.name)
    assert isinstance(fused, nn.Linear), "Conv1D has been rewritten before"
    unit = fused.out_features // sum(shares)
    rows = [unit * share for share in shares]
    biases = fused.bias.split(rows) if fused.bias is not None else [None] * len(rows)
    parts = {
        name: _linear(weight, bias)
        for name, weight, bias in zip(stacked.parts, fused.weight.split(rows), biases, strict=True)
    }
    setattr(block, stacked.name, SeparateProjections(parts))


def _gather(layer: nn.Module, first: str, activation: str, second: str) -> None:
    """Put an MLP that a layer holds in pieces into a module under the first name; the other places do nothing."""
    pieces = OrderedDict((name, getattr(layer, name)) for name in (first, activation, second))
    setattr(layer, first, nn.Sequential(pieces))
    setattr(layer, activation, nn.Identity())
    setattr(layer, second, nn.Identity())
