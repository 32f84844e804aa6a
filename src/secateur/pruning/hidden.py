"""Narrow a model's residual stream: the same channels leave every layer, and what reads it makes up for them."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.model.families import Family
from secateur.model.loading import DenseModel
from secateur.model.shape import (
    BlockKind,
    block_names,
    decoder_layers,
    group_tensors,
    module_of,
    projection_out,
    read_shape,
)
from secateur.model.walk import DecoderWalk
from secateur.pruning.sequence import DenseStreams, least_squares

Channels = Int[Tensor, " kept"]


def check_hidden(family: Family) -> None:
    """Refuse a family whose hidden size is bound to something else.

    Raises:
        ModelError: Says to what.
    """
    if family.mlp.experts is not None:
        raise ModelError(
            f"space.hidden=true cannot narrow family {family.model_type!r}, a mixture of experts: the router reads the "
            "residual stream too; leave it out"
        )
    if family.stock_heads == "dense" or family.norms_add_one:
        bound = "the head size" if family.stock_heads == "dense" else "a factor on the embeddings"
        raise ModelError(
            f"space.hidden=true cannot narrow family {family.model_type!r}, whose classes compute {bound} from the "
            "hidden size; leave it out"
        )


def hidden_parameters(dense: DenseModel, kept: int) -> int:
    """Count the decoder parameters of a dense model with so many hidden channels."""
    layer = decoder_layers(dense.model, dense.family)[0]
    total = 0
    for kind in BlockKind:
        names = block_names(dense.family, kind)
        block = dense.shape.block(kind)
        along = sum(projection.weight.numel() for projection, _ in group_tensors(layer, dense.family, kind).values())
        along += dense.shape.hidden_size * block.output_bias
        around = (layer.get_submodule(norm) for norm in (names.norm, names.post_norm) if norm)
        along += sum(parameter.numel() for norm in around for parameter in norm.parameters())
        total += block.parameters - along + along // dense.shape.hidden_size * kept
    return dense.shape.num_layers * total


@dataclass(frozen=True)
class _Reader:
    """What reads the stream at one place: a norm, if there is one, and the projections behind it."""

    norm: str
    projections: tuple[str, ...]


@torch.no_grad()
def channel_importance(walk: DecoderWalk, streams: DenseStreams) -> Float[Tensor, " hidden"]:
    """Say how much of what is read off the residual stream each of its channels carries.

    Per projection that reads it, the mean square of the normed channel times the squared norm of its column, as a share
    of the sum over channels; summed over all projections and the head.

    Source:
        Wanda's score (arXiv 2306.11695) without the square root, summed over columns and over whatever reads the
        channel, since a channel goes everywhere or nowhere.
    """
    model, total = walk.model, torch.zeros(int(walk.model.config.hidden_size), dtype=torch.float64)
    for reader, states in _readers(walk, streams):
        normed = _normed(model, reader, states)
        energy = sum(x.flatten(0, -2).double().square().sum(0) for x in normed)
        for path in reader.projections:
            projection = model.get_submodule(path)
            assert isinstance(projection, nn.Linear)
            score = energy * projection.weight.double().square().sum(0)
            total += (score / score.sum()).cpu()
    return total


@torch.no_grad()
def narrow_hidden(
    dense: DenseModel, walk: DecoderWalk, streams: DenseStreams, channels: Channels, ridge: float
) -> DenseModel:
    """Make a dense model of fewer hidden channels; the one it is made from is left as it was.

    Of every norm the weights are fitted so that what is left of its output is what it was; every projection that reads
    the stream is then refitted by least squares, so that it gives from the channels that are left what it gave from
    all. A head that is tied to the embedding stays so, and has its norm fitted only.

    Args:
        channels: Those that stay, ascending.
        ridge: Damping of the Gram matrices, as a share of their mean diagonal.
    """
    kept = len(channels)
    model = copy.deepcopy(dense.model)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    for index, (reader, states) in enumerate(_readers(walk, streams)):
        full = _normed(dense.model, reader, states)
        left = [state[..., channels] for state in states]
        if reader.norm:
            norm = model.get_submodule(reader.norm)
            _cut_norm(norm, channels)
            _fit_norm(norm, left, [z[..., channels] for z in full])
            left = [norm(state) for state in left]
        missing = [z - _spread(x, channels, z) for z, x in zip(full, left, strict=True)]
        refit = least_squares(left, missing, ridge)
        for path in reader.projections:
            projection = model.get_submodule(path)
            assert isinstance(projection, nn.Linear)
            weight = projection.weight
            # The matrix [channels, kept] that gives all channels back is the identity on those that are kept, and more.
            change = torch.zeros_like(weight[:, channels], dtype=torch.float64)
            if not (projection is head and tied):
                change = weight.double() @ refit
            _replace(projection, "weight", (weight[:, channels].double() + change).to(weight.dtype))
            projection.in_features = kept
        if index < dense.shape.num_modules:
            _fit_post_norm(walk, model, index, states, channels)
    for index in range(dense.shape.num_modules):
        layer_index, kind = module_of(index)
        layer = decoder_layers(model, dense.family)[layer_index]
        output = projection_out(group_tensors(layer, dense.family, kind))
        _replace(output, "weight", output.weight[channels])
        if output.bias is not None:
            _replace(output, "bias", output.bias[channels])
        output.out_features = kept
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    _replace(embedding, "weight", embedding.weight[:, channels])
    embedding.embedding_dim = kept
    if tied:
        head.weight = embedding.weight
    _say_size(model, kept, dense.shape.head_dim)
    return replace(dense, model=model, shape=read_shape(model, dense.family), mapped_layers=())


def _readers(walk: DecoderWalk, streams: DenseStreams) -> Iterator[tuple[_Reader, list[Tensor]]]:
    """Give what reads the stream, place by place, with the dense stream there."""
    family = walk.family
    states = iter(streams)
    for index in range(2 * len(walk.layers)):
        layer, kind = module_of(index)
        names = block_names(family, kind)
        prefix = f"{family.layers}.{layer}."
        inputs = tuple(f"{prefix}{names.module}.{name}" for name in names.inputs)
        yield _Reader(f"{prefix}{names.norm}" if names.norm else "", inputs), next(states)
    yield _Reader(family.final_norm, (family.head,)), next(states)


def _normed(model: nn.Module, reader: _Reader, states: list[Tensor]) -> list[Tensor]:
    norm = model.get_submodule(reader.norm) if reader.norm else nn.Identity()
    return [norm(state) for state in states]


def _fit_norm(norm: nn.Module, inputs: list[Tensor], wanted: list[Tensor]) -> None:
    """Fit weight and bias of a norm, channel by channel, so that it gives `wanted`."""
    parameters = dict(norm.named_parameters())
    dtype, biased = parameters["weight"].dtype, "bias" in parameters
    _replace(norm, "weight", torch.ones_like(parameters["weight"]))
    if biased:
        _replace(norm, "bias", torch.zeros_like(parameters["bias"]))
    x = torch.cat([norm(each).flatten(0, -2) for each in inputs]).double()
    z = torch.cat([each.flatten(0, -2) for each in wanted]).double()
    means = (x.mean(0), z.mean(0)) if biased else (0.0, 0.0)
    x, z = x - means[0], z - means[1]
    weight = (x * z).sum(0) / x.square().sum(0).clamp(min=torch.finfo(x.dtype).tiny)
    _replace(norm, "weight", weight.to(dtype))
    if biased:
        _replace(norm, "bias", (means[1] - weight * means[0]).to(dtype))


def _fit_post_norm(
    walk: DecoderWalk, model: PreTrainedModel, index: int, states: list[Tensor], channels: Channels
) -> None:
    """Cut the norm behind a block, where there is one, and fit it to what the dense model's gives."""
    layer, kind = module_of(index)
    post_norm = block_names(walk.family, kind).post_norm
    if not post_norm:
        return
    norm = decoder_layers(model, walk.family)[layer].get_submodule(post_norm)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs.append(arguments[0][..., channels])
        outputs.append(output[..., channels])

    handle = walk.layers[layer].get_submodule(post_norm).register_forward_hook(keep)
    try:
        for state in states:
            walk.branch(layer, kind, state)
    finally:
        handle.remove()
    _cut_norm(norm, channels)
    _fit_norm(norm, inputs, outputs)


def _cut_norm(norm: nn.Module, channels: Channels) -> None:
    for name, parameter in list(norm.named_parameters()):
        _replace(norm, name, parameter[channels])
    if isinstance(norm, nn.LayerNorm):
        norm.normalized_shape = (len(channels),)


def _spread(values: Tensor, channels: Channels, like: Tensor) -> Tensor:
    """Put values at their channels, and zero elsewhere."""
    spread = torch.zeros_like(like)
    spread[..., channels] = values
    return spread


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value.detach().clone(), requires_grad=False))


def _say_size(model: PreTrainedModel, kept: int, head_dim: int) -> None:
    """Tell the config, from which the head size would else be computed."""
    model.config.hidden_size = kept
    model.config.head_dim = head_dim
