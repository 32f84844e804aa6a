"""Walk a decoder block by block through the model's own transformers modules.

Masks, rotary embeddings and whatever else a family hands to its layers are captured from one forward pass of the dense
model and replayed, so that no family's attention is written again here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Cache, PreTrainedModel

from secateur.model.families import Family
from secateur.model.shape import BlockKind, decoder_layers, module_of


class DecoderWalk:
    """One forward pass, cut at every block: `embed`, then `block` for each module, then `final_norm` and `logits`.

    All windows must be full (no padding): the captured masks depend on the batch's size only.
    """

    def __init__(self, model: PreTrainedModel, family: Family, source: "DecoderWalk | None" = None) -> None:
        """`source` is the walk of the dense model whose layer arguments a pruned model shares."""
        self.model = model
        self.family = family
        self.layers = decoder_layers(model, family)
        self._source = source
        self._arguments: dict[tuple[int, int], list[dict[str, Any]]] = {}

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, tokens: Int[Tensor, "windows length"]) -> Float[Tensor, "windows length hidden"]:
        return attrgetter(self.family.embedding)(self.model)(tokens)

    def block(
        self,
        layer_index: int,
        kind: BlockKind,
        hidden: Float[Tensor, "windows length hidden"],
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "windows length hidden"]:
        """Add one block's output to the residual stream.

        Args:
            weights: Tensors that stand in for the block's own parameters, by name inside the block; the module itself
                is not touched. Heads and channels are counted from the tensors' sizes.
        """
        layer = self.layers[layer_index]
        names = self.family.attention if kind is BlockKind.ATTENTION else self.family.mlp
        normed = getattr(layer, names.norm)(hidden)
        module: nn.Module = getattr(layer, names.module)
        arguments = self.arguments(hidden.shape[0], hidden.shape[1])[layer_index]
        kwargs = arguments if kind is BlockKind.ATTENTION else {}
        output = functional_call(module, dict(weights), (normed,), kwargs) if weights else module(normed, **kwargs)
        return hidden + (output[0] if isinstance(output, tuple) else output)

    def final_norm(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch hidden"]:
        return attrgetter(self.family.final_norm)(self.model)(hidden)

    def logits(self, normed: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocabulary"]:
        return attrgetter(self.family.head)(self.model)(normed)

    @torch.no_grad()
    def normed(self, tokens: Int[Tensor, "windows length"]) -> Float[Tensor, "windows length hidden"]:
        """Walk from tokens to behind the final norm."""
        hidden = self.embed(tokens)
        for index in range(2 * len(self.layers)):
            hidden = self.block(*module_of(index), hidden)
        return self.final_norm(hidden)

    def arguments(self, num_windows: int, length: int) -> list[dict[str, Any]]:
        """Give what each layer's attention is handed besides the hidden state, for full windows of such a batch."""
        if self._source is not None:
            return self._source.arguments(num_windows, length)
        key = (num_windows, length)
        if key not in self._arguments:
            self._arguments[key] = self._capture(num_windows, length)
        return self._arguments[key]

    @torch.no_grad()
    def decoding_arguments(self, num_windows: int, num_cached: int) -> dict[str, Any]:
        """Give what the first layer's attention is handed for one token after so many cached ones, the cache too."""
        tokens = torch.zeros(num_windows, num_cached, dtype=torch.long, device=self.device)
        output = self.model.base_model(input_ids=tokens, use_cache=True)
        # Its name has changed between versions of transformers.
        cached = {name: value for name, value in output.items() if isinstance(value, Cache)}
        with self._captured() as captured:
            self.model.base_model(input_ids=tokens[:, :1], use_cache=True, **cached)
        return captured[0]

    @torch.no_grad()
    def _capture(self, num_windows: int, length: int) -> list[dict[str, Any]]:
        with self._captured() as captured:
            tokens = torch.zeros(num_windows, length, dtype=torch.long, device=self.device)
            # The backbone alone: logits of a large vocabulary would be computed for nothing.
            self.model.base_model(input_ids=tokens, use_cache=False)
        return captured

    @contextmanager
    def _captured(self) -> Iterator[list[dict[str, Any]]]:
        """Keep what every layer's attention is handed while the block runs."""
        captured: list[dict[str, Any]] = []

        def keep(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        handles = [
            getattr(layer, self.family.attention.module).register_forward_pre_hook(keep, with_kwargs=True)
            for layer in self.layers
        ]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()
