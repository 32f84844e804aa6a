"""What a dense model consists of, counted from its real tensors."""

from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter

from torch import nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.model.families import Family


class BlockKind(StrEnum):
    """The two blocks of a decoder layer. A module of an architecture is one block of one layer."""

    ATTENTION = "attention"
    MLP = "mlp"


@dataclass(frozen=True)
class BlockShape:
    """One block of one layer, in groups: KV-head groups for attention, FFN channels for the MLP.

    `parameters_per_group` and `parameters_constant` (norms and output bias; they go only when the whole block goes)
    are counted from the tensors, so that biases and head norms need no rule of their own. `weights_per_group` are the
    entries of matrices: each costs one multiplication and one addition per token. `output_bias` is true where the dense
    projection out of the groups has a bias. `parameters_added` are those that a narrowed block has and the dense one
    has not (see `DenseShape.with_output_bias`).
    """

    num_groups: int
    parameters_per_group: int
    parameters_constant: int
    weights_per_group: int
    output_bias: bool = False
    parameters_added: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the dense block."""
        return self.parameters_at(self.num_groups)

    def parameters_at(self, width: int) -> int:
        """Parameters of the block with `width` groups; 0 when it is gone, its norm included."""
        if width == 0:
            return 0
        return width * self.parameters_per_group + self.parameters_constant + self.added_at(width)

    def added_at(self, width: int) -> int:
        """How many of them the dense block has not: a block that is gone or whole gains none."""
        return self.parameters_added if 0 < width < self.num_groups else 0


@dataclass(frozen=True)
class DenseShape:
    """Sizes of a dense decoder; every layer has the same.

    `parameters_outside` counts what is never cut: embeddings, final norm and the output head (once where tied).
    `mixed_attention` is true where layers differ in their attention pattern (full and sliding windows).
    """

    hidden_size: int
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_width: int
    vocab_size: int
    attention: BlockShape
    mlp: BlockShape
    parameters_outside: int
    mixed_attention: bool

    @property
    def queries_per_group(self) -> int:
        return self.num_query_heads // self.num_kv_heads

    @property
    def decoder_parameters(self) -> int:
        """Parameters of all transformer blocks of the dense model: what `--keep` is a share of."""
        return self.num_layers * (self.attention.parameters + self.mlp.parameters)

    @property
    def num_modules(self) -> int:
        return 2 * self.num_layers

    def with_output_bias(self) -> "DenseShape":
        """Give the shape by which to count where narrowed blocks gain a bias on their output projection.

        A block whose dense output projection has a bias gains nothing: its own is changed. Narrowing a block still
        makes it smaller, because one group's column of the output projection already has as many entries as the bias.
        """

        def gaining(block: BlockShape) -> BlockShape:
            return replace(block, parameters_added=0 if block.output_bias else self.hidden_size)

        return replace(self, attention=gaining(self.attention), mlp=gaining(self.mlp))

    def block(self, kind: BlockKind) -> BlockShape:
        return self.attention if kind is BlockKind.ATTENTION else self.mlp

    def group_size(self, kind: BlockKind) -> int:
        """Input columns of the output projection that belong to one group."""
        return self.queries_per_group * self.head_dim if kind is BlockKind.ATTENTION else 1


def module_of(index: int) -> tuple[int, BlockKind]:
    """Give layer and kind of module `index`; modules are numbered in the order in which a token meets them."""
    return index // 2, BlockKind.MLP if index % 2 else BlockKind.ATTENTION


def decoder_layers(model: PreTrainedModel, family: Family) -> nn.ModuleList:
    return attrgetter(family.layers)(model)


def group_tensors(layer: nn.Module, family: Family, kind: BlockKind) -> dict[str, tuple[nn.Linear, int]]:
    """Name the projections that are cut with the groups of a block, as name -> (projection, axis of its weight).

    Axis 0 is cut for the projections into the groups (and their bias with it), axis 1 for the one out of them.
    """
    if kind is BlockKind.ATTENTION:
        attention = family.attention
        names: tuple[str, ...] = (attention.query, attention.key, attention.value)
        module, output = getattr(layer, attention.module), attention.output
    else:
        names = family.mlp.inputs
        module, output = getattr(layer, family.mlp.module), family.mlp.output
    return {name: (getattr(module, name), 0) for name in names} | {output: (getattr(module, output), 1)}


def projection_out(tensors: dict[str, tuple[nn.Linear, int]]) -> nn.Linear:
    """Give the projection out of the groups, of what `group_tensors` names."""
    return next(projection for projection, axis in tensors.values() if axis == 1)


def read_shape(model: PreTrainedModel, family: Family) -> DenseShape:
    """Count a dense model.

    Raises:
        ModelError: Layers differ in size (the model is pruned already, or heterogeneous by design).
    """
    config = model.config
    layers = decoder_layers(model, family)
    per_layer = [[(name, tuple(p.shape)) for name, p in layer.named_parameters()] for layer in layers]
    if any(sizes != per_layer[0] for sizes in per_layer):
        raise ModelError("the layers of the model differ in size; a model whose layers are all alike is expected")

    def block_shape(kind: BlockKind, num_groups: int) -> BlockShape:
        names = family.attention if kind is BlockKind.ATTENTION else family.mlp
        in_block = [
            (name, p)
            for name, p in layers[0].named_parameters()
            if name.startswith((f"{names.module}.", f"{names.norm}."))
        ]
        cut = 0
        weights = 0
        tensors = group_tensors(layers[0], family, kind).values()
        for projection, axis in tensors:
            weights += projection.weight.numel()
            cut += projection.weight.numel()
            if axis == 0 and projection.bias is not None:
                cut += projection.bias.numel()
        total = sum(p.numel() for _, p in in_block)
        return BlockShape(
            num_groups=num_groups,
            parameters_per_group=cut // num_groups,
            parameters_constant=total - cut,
            weights_per_group=weights // num_groups,
            output_bias=any(p.bias is not None for p, axis in tensors if axis == 1),
        )

    attention = block_shape(BlockKind.ATTENTION, config.num_key_value_heads)
    mlp = block_shape(BlockKind.MLP, config.intermediate_size)
    in_layers = len(layers) * (attention.parameters + mlp.parameters)
    query, _ = group_tensors(layers[0], family, BlockKind.ATTENTION)[family.attention.query]
    return DenseShape(
        hidden_size=config.hidden_size,
        num_layers=len(layers),
        num_query_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=query.weight.shape[0] // config.num_attention_heads,
        ffn_width=config.intermediate_size,
        vocab_size=config.vocab_size,
        attention=attention,
        mlp=mlp,
        parameters_outside=sum(p.numel() for p in model.parameters()) - in_layers,
        mixed_attention=len(set(getattr(config, "layer_types", None) or [])) > 1,
    )
