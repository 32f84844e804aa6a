"""Pad a pruned model with zeros up to layers that are all alike: the same function in a stock config, at more bytes."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.export.checkpoint import stock_holds
from secateur.model.heads import set_heads
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, block_names, cut_norms, decoder_layers, group_tensors, module_of, outputs_of
from secateur.space.architecture import Architecture


def padded_architecture(dense: DenseModel, architecture: Architecture) -> Architecture:
    """Give the smallest architecture of layers alike that holds another, and that the stock classes hold.

    Layers that are gone altogether stay gone.
    """
    widths = architecture.widths
    least = max(1, *widths[::2])
    heads = next(heads for heads in range(least, dense.shape.num_kv_heads + 1) if stock_holds(dense, heads))
    ffn_width = max(1, *widths[1::2])
    padded: list[int] = []
    for layer in architecture.layers:
        padded += [heads, ffn_width] if layer.kv_heads or layer.ffn_width else [0, 0]
    return Architecture.from_widths(tuple(padded))


@torch.no_grad()
def pad(dense: DenseModel, pruned: PreTrainedModel, architecture: Architecture, wider: Architecture) -> PreTrainedModel:
    """Make a copy of a pruned model that is of a wider architecture and computes the same.

    Groups that are added have zeros in the projection out of them, and blocks that were gone give zero. A norm over all
    heads (OLMo-2) takes its mean over more entries than before: what it norms is made longer, and its weight less.

    Args:
        architecture: Of `pruned`.
        wider: As `padded_architecture` gives it.
    """
    model = copy.deepcopy(pruned)
    layers, whole = decoder_layers(model, dense.family), decoder_layers(dense.model, dense.family)
    for index, (width, wanted) in enumerate(zip(architecture.widths, wider.widths, strict=True)):
        layer_index, kind = module_of(index)
        if width == wanted:
            continue
        layer, names = layers[layer_index], block_names(dense.family, kind)
        if width == 0:
            for path in filter(None, (names.module, names.norm, names.post_norm)):
                layer.set_submodule(path, copy.deepcopy(whole[layer_index].get_submodule(path)))
        present = width or dense.shape.block(kind).num_groups
        for projection, axis in group_tensors(layer, dense.family, kind).values():
            projection.weight = _resized(projection.weight, axis, present, wanted)
            if projection.bias is not None and axis == 0:
                projection.bias = _resized(projection.bias, 0, present, wanted)
            projection.out_features, projection.in_features = projection.weight.shape
        given = outputs_of(layer, dense.family, kind) if width == 0 else []
        for parameter in (parameter for output in given for parameter in output.parameters()):
            parameter.zero_()
        longer = (wanted / present) ** 0.5
        norms, projections = cut_norms(layer, dense.family, kind), group_tensors(layer, dense.family, kind)
        for name, normed in names.cut_norms:
            for parameter in projections[normed][0].parameters():
                parameter.mul_(longer)
            for entry, parameter in list(norms[name].named_parameters()):
                setattr(norms[name], entry, _resized(parameter / longer, 0, present, wanted))
        if kind is BlockKind.ATTENTION:
            set_heads(layer.get_submodule(names.module), dense.family, wanted, present)
    return model


def _resized(tensor: Tensor, axis: int, present: int, wanted: int) -> nn.Parameter:
    """Give a tensor of `wanted` groups along an axis, where it has `present`: zeros at the end, or less of it."""
    size = tensor.shape[axis] // present * wanted
    if wanted < present:
        return nn.Parameter(tensor.narrow(axis, 0, size).clone(), requires_grad=False)
    added = [0, 0] * (tensor.ndim - 1 - axis) + [0, size - tensor.shape[axis]]
    return nn.Parameter(F.pad(tensor, added), requires_grad=False)
