"""What a dense model consists of, counted from its real tensors."""

from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter

from torch import nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.model.families import AttentionNames, Family, MlpNames
from secateur.model.mixture import ExpertLayout, beside_outputs, layout_of


class BlockKind(StrEnum):
    """The two blocks of a decoder layer. A module of an architecture is one block of one layer."""

    ATTENTION = "attention"
    MLP = "mlp"


@dataclass(frozen=True)
class BlockShape:
    """One block of one layer, in groups: KV-head groups for attention, FFN channels (or experts) for the MLP.

    `parameters_per_group` and `parameters_constant` (norms and output bias; they go only when the whole block goes)
    are counted from the tensors, so that biases and head norms need no rule of their own. `weights_per_group` and
    `weights_constant` are the entries of matrices that a token meets: each costs it one multiplication and one
    addition. `output_bias` is true where the dense projection out of the groups has a bias. `parameters_added` are
    those that a narrowed block has and the dense one has not (see `DenseShape.with_output_bias`).

    Of a mixture a token meets the experts that it goes to. Where a group is a channel of every expert, only those
    experts' are among `weights_per_group`; where it is a whole expert, `weights_per_active_group` come with
    `most_active` of the groups at most.
    """

    num_groups: int
    parameters_per_group: int
    parameters_constant: int
    weights_per_group: int
    output_bias: bool = False
    parameters_added: int = 0
    weights_constant: int = 0
    weights_per_active_group: int = 0
    most_active: int = 0

    @property
    def parameters(self) -> int:
        """Parameters of the dense block."""
        return self.parameters_at(self.num_groups)

    def parameters_at(self, width: int) -> int:
        """Parameters of the block with `width` groups; 0 when it is gone, its norm included."""
        if width == 0:
            return 0
        return width * self.parameters_per_group + self.parameters_constant + self.added_at(width)

    def weights_at(self, width: int) -> int:
        """Entries of matrices that a token meets in the block with `width` groups."""
        if width == 0:
            return 0
        active = min(width, self.most_active) * self.weights_per_active_group
        return width * self.weights_per_group + active + self.weights_constant

    def added_at(self, width: int) -> int:
        """How many of them the dense block has not: a block that is gone or whole gains none."""
        return self.parameters_added if 0 < width < self.num_groups else 0


@dataclass(frozen=True)
class DenseShape:
    """Sizes of a dense decoder; every layer has the same.

    `parameters_outside` counts what is never cut: embeddings, final norm and the output head (once where tied).
    `ffn_width` counts the groups of the MLP: channels, channels of every expert, or whole experts.
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
    experts: ExpertLayout | None = None

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

    @property
    def whole_experts(self) -> bool:
        """Whether the groups of the MLP are whole experts."""
        return self.experts is not None and self.experts.whole

    def layout(self, kind: BlockKind) -> ExpertLayout | None:
        """Give how the channels of a block lie where it is a mixture of experts."""
        return self.experts if kind is BlockKind.MLP else None

    def group_size(self, kind: BlockKind) -> int:
        """Input columns of the output projection that belong to one group."""
        if kind is BlockKind.ATTENTION:
            return self.queries_per_group * self.head_dim
        if self.experts is None:
            return 1
        return self.experts.width if self.experts.whole else self.experts.num_experts


def module_of(index: int) -> tuple[int, BlockKind]:
    """Give layer and kind of module `index`; modules are numbered in the order in which a token meets them."""
    return index // 2, BlockKind.MLP if index % 2 else BlockKind.ATTENTION


def decoder_layers(model: PreTrainedModel, family: Family) -> nn.ModuleList:
    return attrgetter(family.layers)(model)


def block_names(family: Family, kind: BlockKind) -> AttentionNames | MlpNames:
    return family.attention if kind is BlockKind.ATTENTION else family.mlp


def group_tensors(layer: nn.Module, family: Family, kind: BlockKind) -> dict[str, tuple[nn.Linear, int]]:
    """Name the projections that are cut with the groups of a block, as name -> (projection, axis of its weight).

    Axis 0 is cut for the projections into the groups (and their bias with it), axis 1 for the one out of them.
    """
    names = block_names(family, kind)
    module = layer.get_submodule(names.module)
    into = {name: (module.get_submodule(name), 0) for name in names.inputs}
    return into | {names.output: (module.get_submodule(names.output), 1)}  # type: ignore[return-value]


def cut_norms(layer: nn.Module, family: Family, kind: BlockKind) -> dict[str, nn.Module]:
    """Name the norms inside a block whose parameters have an entry per column of the groups, and are cut with them."""
    names = block_names(family, kind)
    module = layer.get_submodule(names.module)
    return {name: module.get_submodule(name) for name, _ in names.cut_norms}


def projection_out(tensors: dict[str, tuple[nn.Linear, int]]) -> nn.Linear:
    """Give the projection out of the groups, of what `group_tensors` names."""
    return next(projection for projection, axis in tensors.values() if axis == 1)


def outputs_of(layer: nn.Module, family: Family, kind: BlockKind) -> list[nn.Linear]:
    """Give the projections whose outputs add up to what a block's module gives."""
    names = block_names(family, kind)
    beside = beside_outputs(layer.get_submodule(names.module), names) if isinstance(names, MlpNames) else []
    return [projection_out(group_tensors(layer, family, kind)), *beside]


def kv_head_count(model: PreTrainedModel, family: Family) -> int:
    """Count KV heads; families without grouped-query attention ignore what their config may say of it."""
    heads = int(model.config.num_attention_heads)
    grouped = getattr(model.config, "num_key_value_heads", None) if family.stock_heads != "dense" else None
    return int(grouped or heads)


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
        names = block_names(family, kind)
        own = tuple(f"{name}." for name in (names.module, names.norm, names.post_norm) if name)
        in_block = [(name, p) for name, p in layers[0].named_parameters() if name.startswith(own)]
        cut = sum(p.numel() for norm in cut_norms(layers[0], family, kind).values() for p in norm.parameters())
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
            weights_constant=sum(p.numel() for _, p in in_block if p.ndim > 1) - weights,
        )

    num_kv_heads = kv_head_count(model, family)
    columns, ffn_width = (projection_out(group_tensors(layers[0], family, kind)).in_features for kind in BlockKind)
    experts = layout_of(layers[0].get_submodule(family.mlp.module))
    if experts is not None:
        ffn_width = experts.num_groups
    attention = block_shape(BlockKind.ATTENTION, num_kv_heads)
    mlp = block_shape(BlockKind.MLP, ffn_width)
    if experts is not None:
        assert family.mlp.experts is not None, "a mixture is rewritten where the table names one"
        per_token = getattr(config, family.mlp.experts.per_token)
        mlp = _of_active_experts(mlp, experts, config.hidden_size, per_token)
    in_layers = len(layers) * (attention.parameters + mlp.parameters)
    return DenseShape(
        hidden_size=config.hidden_size,
        num_layers=len(layers),
        num_query_heads=config.num_attention_heads,
        num_kv_heads=num_kv_heads,
        head_dim=columns // config.num_attention_heads,
        ffn_width=ffn_width,
        vocab_size=config.vocab_size,
        attention=attention,
        mlp=mlp,
        parameters_outside=sum(p.numel() for p in model.parameters()) - in_layers,
        experts=experts,
    )


def _of_active_experts(block: BlockShape, experts: ExpertLayout, hidden_size: int, per_token: int) -> BlockShape:
    """Count the weights that a token meets in a mixture, where `block` counts those of all experts."""
    if not experts.whole:
        return replace(block, weights_per_group=block.weights_per_group // experts.num_experts * per_token)
    # A token meets every expert's row of the router.
    return replace(
        block,
        weights_per_group=hidden_size,
        weights_per_active_group=block.weights_per_group - hidden_size,
        most_active=per_token,
    )
