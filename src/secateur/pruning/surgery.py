"""From a chosen architecture to a physically smaller model."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.model.heads import set_heads
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, block_names, cut_norms, decoder_layers, group_tensors, module_of
from secateur.pruning.bank import WeightBank
from secateur.space.architecture import Architecture


class AbsentAttention(nn.Module):
    """Stands where a layer's attention was: adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor, **_kwargs: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


class AbsentMlp(nn.Module):
    """Stands where a layer's MLP was: adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.zeros_like(hidden_states)


def prune(dense: DenseModel, bank: WeightBank, architecture: Architecture) -> PreTrainedModel:
    """Make the pruned model: same logits as the slices of the bank that were measured, smaller tensors.

    The dense model is left as it was. What lies outside of its layers (embeddings, final norm, head) is shared with it,
    in parameters of the pruned model's own, to be replaced and not to be changed in place. A block that is gone takes
    its norm with it; whole layers stay in place, empty, so that positions keep their meaning.
    """
    model = _copy_without_group_weights(dense)
    layers = decoder_layers(model, dense.family)
    for index, width in enumerate(architecture.widths):
        layer_index, kind = module_of(index)
        layer = layers[layer_index]
        names = block_names(dense.family, kind)
        if width == 0:
            for path in filter(None, (names.norm, names.post_norm)):
                layer.set_submodule(path, nn.Identity())
            setattr(layer, names.module, AbsentAttention() if kind is BlockKind.ATTENTION else AbsentMlp())
            continue
        slices = bank.slices(index, width)
        for name, (projection, _) in group_tensors(layer, dense.family, kind).items():
            _replace(projection, slices[f"{name}.weight"], slices.get(f"{name}.bias"))
        for name, norm in cut_norms(layer, dense.family, kind).items():
            for entry, _ in list(norm.named_parameters()):
                setattr(norm, entry, nn.Parameter(slices[f"{name}.{entry}"].detach().clone(), requires_grad=False))
        if kind is BlockKind.ATTENTION:
            set_heads(layer.get_submodule(names.module), dense.family, width, dense.shape.num_kv_heads)
    return model


def _copy_without_group_weights(dense: DenseModel) -> PreTrainedModel:
    """Copy the dense model, except the weights of its groups, which are about to be replaced, and what is shared."""
    in_layers = {id(parameter) for parameter in decoder_layers(dense.model, dense.family).parameters()}
    spared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in dense.model.parameters()
        if id(parameter) not in in_layers
    }
    for index in range(dense.shape.num_modules):
        layer, kind = module_of(index)
        for projection, _ in group_tensors(
            decoder_layers(dense.model, dense.family)[layer], dense.family, kind
        ).values():
            spared[id(projection.weight)] = projection.weight
    return copy.deepcopy(dense.model, memo=spared)


def _replace(projection: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a projection its own smaller tensors; without a bias among them it keeps the one it has, if any."""
    projection.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        projection.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    projection.out_features, projection.in_features = weight.shape
