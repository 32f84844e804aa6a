"""Walk a decoder block by block through the model's own transformers modules.

Masks, rotary embeddings and whatever else a family hands to its layers are captured from one forward pass of the dense
model and replayed, so that no family's attention is written again here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Cache, PreTrainedModel

from secateur.model.families import Family
from secateur.model.heads import narrowed_heads
from secateur.model.shape import BlockKind, block_names, decoder_layers, module_of


class _ReachedError(Exception):
    """The first layer is reached: what is before it has been seen."""


class DecoderWalk:
    """One forward pass, cut at every block: `embed`, then `block` for each module, then `final_norm` and `logits`.

    What goes from block to block is a state: the residual stream, and where the residual is parallel the input of the
    layer behind it along the last axis, because the MLP reads that. `stream` gives the residual stream of a state.

    All windows must be full (no padding): the captured masks depend on the batch's size only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: Family,
        source: "DecoderWalk | None" = None,
        release: Callable[[int], None] = lambda _layer: None,
    ) -> None:
        """Take a model to walk.

        Args:
            source: Walk of the dense model whose layer arguments a pruned model shares.
            release: Called with a layer that has been left behind: its weights are not needed now.
        """
        self.model = model
        self.family = family
        self.layers = decoder_layers(model, family)
        self.parallel = bool(family.parallel_residual) and bool(getattr(self.layers[0], family.parallel_residual))
        self._source = source
        self.release = release
        self._arguments: dict[tuple[int, int], list[dict[str, Any]]] = {}

    @property
    def state_size(self) -> int:
        """Numbers per token of a state."""
        return int(self.model.config.hidden_size) * (2 if self.parallel else 1)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def embed(self, tokens: Int[Tensor, "windows length"]) -> Float[Tensor, "windows length state"]:
        """Give the state before the first block, whatever the family makes of its embeddings."""
        hidden: list[Tensor] = []

        def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedError

        handle = self.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with suppress(_ReachedError):
                self.model.base_model(input_ids=tokens.to(self.device), use_cache=False)
        finally:
            handle.remove()
        return torch.cat([hidden[0], hidden[0]], dim=-1) if self.parallel else hidden[0]

    def block(
        self,
        layer_index: int,
        kind: BlockKind,
        state: Float[Tensor, "windows length state"],
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "windows length state"]:
        """Add one block's output to the residual stream.

        Args:
            weights: Tensors that stand in for the block's own parameters, by name inside the block; the module itself
                is not touched. Heads and channels are counted from the tensors' sizes.
        """
        return self.add(kind, state, self.branch(layer_index, kind, state, weights))

    def branch(
        self,
        layer_index: int,
        kind: BlockKind,
        state: Float[Tensor, "windows length state"],
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "windows length hidden"]:
        """Give what a block adds to the residual stream; arguments as for `block`."""
        post_norm = block_names(self.family, kind).post_norm
        return self.scaled(self.layers[layer_index], post_norm, self.module_output(layer_index, kind, state, weights))

    def module_output(
        self,
        layer_index: int,
        kind: BlockKind,
        state: Float[Tensor, "windows length state"],
        weights: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "windows length hidden"]:
        """Give what a block's module gives, before what stands behind it; arguments as for `block`."""
        module = self.layers[layer_index].get_submodule(block_names(self.family, kind).module)
        normed = self.normed_input(layer_index, kind, state)
        arguments = self.arguments(state.shape[0], state.shape[1])[layer_index]
        kwargs = arguments if kind is BlockKind.ATTENTION else {}
        if weights is None:
            output = module(normed, **kwargs)
        else:
            with narrowed_heads(module, self.family, kind, weights):
                output = functional_call(module, dict(weights), (normed,), kwargs)
        given: Tensor = output[0] if isinstance(output, tuple) else output
        return given

    def normed_input(
        self, layer_index: int, kind: BlockKind, state: Float[Tensor, "windows length state"]
    ) -> Float[Tensor, "windows length hidden"]:
        """Give what the projections of a block read."""
        names = block_names(self.family, kind)
        hidden = state.chunk(2, dim=-1)[1] if self.parallel else state
        return self.layers[layer_index].get_submodule(names.norm)(hidden) if names.norm else hidden

    def scaled(self, layer: nn.Module, post_norm: str, output: Tensor) -> Tensor:
        """Turn a module's output into what is added."""
        normed = layer.get_submodule(post_norm)(output) if post_norm else output
        scale = self.family.residual_scale
        return normed * getattr(layer, scale) if scale else normed

    def add(
        self,
        kind: BlockKind,
        state: Float[Tensor, "windows length state"],
        output: Float[Tensor, "windows length hidden"] | None,
    ) -> Float[Tensor, "windows length state"]:
        """Give the state after a block that adds `output`; None for a block that is gone."""
        if output is not None:
            state = state.to(output.device)  # the layer before may lie on another
        if not self.parallel:
            return state if output is None else state + output
        stream, read = state.chunk(2, dim=-1)
        stream = stream if output is None else stream + output
        return torch.cat([stream, read if kind is BlockKind.ATTENTION else stream], dim=-1)

    def stream(self, state: Float[Tensor, "windows length state"]) -> Float[Tensor, "windows length hidden"]:
        """Give the residual stream of a state."""
        return state.chunk(2, dim=-1)[0] if self.parallel else state

    def final_norm(self, state: Float[Tensor, "*batch state"]) -> Float[Tensor, "*batch hidden"]:
        hidden = state.chunk(2, dim=-1)[0] if self.parallel else state
        return attrgetter(self.family.final_norm)(self.model)(hidden)

    def logits(self, normed: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocabulary"]:
        logits, cap = self._uncapped_logits(normed), self._logits_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def gained_logits(
        self, normed: Float[Tensor, "*batch hidden"], gain: float
    ) -> tuple[Float[Tensor, "*batch vocabulary"], Float[Tensor, "*batch vocabulary"]]:
        """Give the logits of `gain` times what is behind the final norm, and their derivative by it, in float32."""
        rise, cap = self._uncapped_logits(normed).float(), self._logits_cap  # no family's head has a bias
        logits = gain * rise
        if cap is None:
            return logits, rise
        share = torch.tanh(logits / cap)
        return cap * share, rise * (1 - share.square())

    @property
    def _logits_cap(self) -> float | None:
        return getattr(self.model.config, self.family.logits_cap) if self.family.logits_cap else None

    def _uncapped_logits(self, normed: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocabulary"]:
        logits: Tensor = self.model.get_output_embeddings()(normed)
        divisor = self.family.logits_divisor
        return logits / getattr(self.model.config, divisor) if divisor else logits

    @torch.no_grad()
    def states(self, batches: Sequence[Int[Tensor, "_windows length"]]) -> Iterator[list[Tensor]]:
        """Give the states of batches before the first block, and after each.

        All batches go through a block before any goes through the next: one layer's weights are needed at a time.
        """
        states = [self.embed(batch) for batch in batches]
        yield states
        for index in range(2 * len(self.layers)):
            layer, kind = module_of(index)
            states = [self.block(layer, kind, state) for state in states]
            if kind is BlockKind.MLP:
                self.release(layer)
            yield states

    @torch.no_grad()
    def last_states(self, batches: Sequence[Int[Tensor, "_windows length"]]) -> list[Tensor]:
        """Give the states of batches after the last block."""
        states: list[Tensor] = []
        for states in self.states(batches):  # noqa: B007 - the last is what counts
            pass
        return states

    @torch.no_grad()
    def normed(self, batches: Sequence[Int[Tensor, "_windows length"]]) -> list[Tensor]:
        """Walk batches from tokens to behind the final norm."""
        return [self.final_norm(state) for state in self.last_states(batches)]

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
        for layer in range(len(self.layers)):
            self.release(layer)
        return captured

    @contextmanager
    def _captured(self) -> Iterator[list[dict[str, Any]]]:
        """Keep what every layer's attention is handed while the block runs."""
        captured: list[dict[str, Any]] = []

        def keep(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            captured.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

        handles = [
            layer.get_submodule(self.family.attention.module).register_forward_pre_hook(keep, with_kwargs=True)
            for layer in self.layers
        ]
        try:
            yield captured
        finally:
            for handle in handles:
                handle.remove()
