"""The shape of a pruned model, as a value."""

from functools import cached_property

from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.schema import Record, digest


class LayerShape(Record):
    """What one dense layer keeps. A block that is gone has 0, so positions never shift."""

    kv_heads: int
    ffn_width: int


class Architecture(Record):
    """One `LayerShape` per dense layer.

    `widths` is the same in module order: attention and MLP of layer 0, of layer 1, ... in kept groups (KV heads, FFN
    channels). `key` is a digest that serves as file name, database key and seed.
    """

    layers: tuple[LayerShape, ...]

    @classmethod
    def from_widths(cls, widths: tuple[int, ...]) -> "Architecture":
        """Build from kept groups in module order."""
        pairs = zip(widths[::2], widths[1::2], strict=True)
        return cls(layers=tuple(LayerShape(kv_heads=int(heads), ffn_width=int(width)) for heads, width in pairs))

    @classmethod
    def dense(cls, shape: DenseShape) -> "Architecture":
        return cls.from_widths((shape.num_kv_heads, shape.ffn_width) * shape.num_layers)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        return tuple(width for layer in self.layers for width in (layer.kv_heads, layer.ffn_width))

    @cached_property
    def key(self) -> str:
        return digest(list(self.widths))

    def width(self, layer_index: int, kind: BlockKind) -> int:
        layer = self.layers[layer_index]
        return layer.kv_heads if kind is BlockKind.ATTENTION else layer.ffn_width

    def kept_ratios(self, shape: DenseShape) -> tuple[float, ...]:
        """Share of groups kept per module, each in [0, 1]."""
        return tuple(width / shape.block(module_of(index)[1]).num_groups for index, width in enumerate(self.widths))
