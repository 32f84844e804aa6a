"""Sequential reconstruction: the chosen model's projections, solved again on its own activations."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.mixture import ROUTER, ExpertLayout, Mixture, every_expert, layout_of
from secateur.model.shape import BlockKind, block_names, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.final_norm import MOST_TOKENS, DenseDistribution, match_final_norm
from secateur.pruning.importance import damped
from secateur.pruning.passed_modules import PassedModules, block_parameters
from secateur.space.architecture import Architecture

# Of a norm's weight behind a projection, below which nothing is asked of that channel.
SMALLEST_WEIGHT = 1e-2
# Of the median token's mean square: a stream shorter than that counts as one so long.
LEAST_SQUARE = 1e-3

# What a projection reads, what it is asked for, and how much each token weighs.
Batch = tuple[Tensor, Tensor, Tensor | None]


class DenseStreams:
    """The dense model's residual stream on calibration tokens: before the first module, and after each.

    Kept in memory where they fit, since every candidate needs the same; else computed again each time.
    """

    def __init__(
        self,
        walk: DecoderWalk,
        calibration: TokenSet,
        batch_tokens: int,
        max_tokens: int,
        cache_bytes: int,
        channels: Int[Tensor, " kept"] | None = None,
    ) -> None:
        """Take at most `max_tokens` of the set, in whole windows, but one at least.

        Args:
            channels: Hidden channels that are given; all if not given.
        """
        windows = calibration.expect(Role.CALIBRATION).tokens
        length = windows.shape[1]
        chosen = windows[: max(1, max_tokens // length)].to(walk.device)
        self.batches = chosen.split(max(1, batch_tokens // length))
        self.num_tokens = chosen.numel()
        self._walk = walk
        self._channels = channels
        state_bytes = self.num_tokens * walk.state_size * walk.model.dtype.itemsize
        all_bytes = state_bytes * (2 * len(walk.layers) + 1)
        self._fits = all_bytes <= cache_bytes
        bytes_left = cache_bytes - all_bytes if self._fits else 0
        distribution_bytes = min(self.num_tokens, MOST_TOKENS) * walk.model.config.vocab_size * 4
        self._distribution_bytes = distribution_bytes if distribution_bytes <= bytes_left else 0
        self._kept: list[list[Tensor]] = []
        self._token_weights: dict[int, list[Tensor]] = {}
        self._distribution: DenseDistribution | None = None
        self.passed = PassedModules(bytes_left - self._distribution_bytes)

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Give 1 + number of modules streams, each a list of batches."""
        if self._fits and not self._kept:
            self._kept = list(self._given())
        return iter(self._kept) if self._fits else self._given()

    def token_weights(self, walk: DecoderWalk, index: int, after: list[Tensor]) -> list[Tensor]:
        """Give `inverse_squares` of the stream after a module; kept, being one number per token."""
        if index not in self._token_weights:
            self._token_weights[index] = [inverse_squares(walk.stream(state)) for state in after]
        return self._token_weights[index]

    def distribution(self, walk: DecoderWalk, last: list[Tensor]) -> DenseDistribution:
        """Give what the dense model says of the tokens, from its stream after the last module; kept where it fits.

        Args:
            walk: Of the model whose final norm and head read that stream.
        """
        if self._distribution is None or not self._distribution.fits:
            self._distribution = DenseDistribution(walk, last, self._distribution_bytes)
        return self._distribution

    def _given(self) -> Iterator[list[Tensor]]:
        for stream in self._walk.states(self.batches):
            yield stream if self._channels is None else [state[..., self._channels] for state in stream]


@torch.no_grad()
def reconstruct_in_sequence(
    dense: DenseModel,
    walk: DecoderWalk,
    pruned: PreTrainedModel,
    architecture: Architecture,
    streams: DenseStreams,
    ridge: float,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Refit every projection of `pruned` in place, from the first module to the last.

    First the projections into the groups. With x the normed residual stream of the pruned model at the module, z the
    dense model's and W_0 a projection as it is, each becomes W_0 (I + T), where

        T solves  min  mean ||(I + T) x - z||^2 + lambda ||T||^2

    so that the groups see what comes nearest to the input they were trained on. Then the projection out of them. With x
    its input, r the dense residual stream after the module minus the pruned one before it, and W_0 as it is,

        W solves  min  mean w ||W x + b - r||^2 + lambda ||W - W_0||^2

    so that later modules correct what earlier ones have lost. Tokens weigh w, one over the mean square of the dense
    stream after the module: every norm that follows divides by it. The target "dense module output" instead of r
    ignores the errors made before and measured worse. Last, the final norm is scaled (`match_final_norm`).

    Of a mixture, r is without what stands beside the experts, the router stays as it is, and W is solved for one expert
    after another, each for what those before it leave.

    Args:
        walk: Walk of the dense model.
        streams: Its residual streams on the calibration set.
        ridge: lambda as a share of the mean diagonal of E[w x x^T]; it draws towards the bank's solution.
        advance: Called after every module.
    """
    pruned_walk = DecoderWalk(pruned, dense.family, source=walk)
    shared, pruned_stream = streams.passed.take_over(pruned_walk, ridge, advance)
    pruned_stream = pruned_stream or [pruned_walk.embed(batch) for batch in streams.batches]
    dense_streams = iter(streams)
    dense_stream = next(dense_streams)
    for index, width in enumerate(architecture.widths):
        layer, kind = module_of(index)
        dense_before, dense_stream = dense_stream, next(dense_streams)
        if index < shared:
            continue
        cut = block_parameters(pruned_walk, index)
        if not width:
            pruned_stream = [pruned_walk.add(kind, state, None) for state in pruned_stream]
        else:
            block = _Block(pruned_walk, layer, kind)
            wanted = (walk.normed_input(layer, kind, state) for state in dense_before)
            block.correct_inputs(wanted, pruned_stream, ridge)
            weights = streams.token_weights(walk, index, dense_stream)
            pruned_stream = block.correct_output(pruned_stream, dense_stream, weights, ridge)
        streams.passed.keep(pruned_walk, index, cut, pruned_stream)
        advance()
    match_final_norm(pruned_walk, streams.distribution(walk, dense_stream), pruned_stream)


def inverse_squares(stream: Float[Tensor, "*batch hidden"]) -> Float[Tensor, " *batch"]:
    """Give one over the mean square of every token's stream; a token whose stream is next to nothing weighs finitely.

    A padding token's embedding is zero in some checkpoints, and so is what its own attention adds.
    """
    squares = stream.float().square().mean(-1)
    return squares.clamp(min=LEAST_SQUARE * float(squares.median())).reciprocal()


def least_squares(
    inputs: Iterable[Tensor], targets: Iterable[Tensor], ridge: float, weights: Iterable[Tensor] | None = None
) -> Float[Tensor, "target_columns input_columns"]:
    """Give the matrix A with the least mean w ||A x - y||^2 + lambda ||A||^2 over all tokens, in float64.

    Args:
        ridge: lambda as a share of the mean diagonal of E[w x x^T].
        weights: w per token; all alike if not given.
    """
    return _solved(zip(inputs, targets, itertools.repeat(None) if weights is None else weights, strict=False), ridge)


def _solved(batches: Iterable[Batch], ridge: float) -> Float[Tensor, "target_columns input_columns"]:
    """Give `least_squares` of batches that are made one after another."""
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    for x, y, w in batches:
        flat = x.flatten(0, -2).float()
        weighted = flat if w is None else flat * w.reshape(-1, 1)
        gram = gram + weighted.T @ flat
        cross = cross + weighted.T @ y.flatten(0, -2).float()
    assert isinstance(gram, Tensor)
    assert isinstance(cross, Tensor)
    return torch.linalg.solve(damped(gram, ridge), cross.double()).T


@dataclass(frozen=True)
class _Block:
    """A block of the pruned model, to be solved.

    Of what is as large as the stream only one batch is made at a time: the set's tokens outweigh a layer.
    """

    walk: DecoderWalk
    layer: int
    kind: BlockKind

    @property
    def module(self) -> nn.Module:
        return self.walk.layers[self.layer].get_submodule(block_names(self.walk.family, self.kind).module)

    @property
    def tensors(self) -> dict[str, tuple[nn.Linear, int]]:
        return group_tensors(self.walk.layers[self.layer], self.walk.family, self.kind)

    def correct_inputs(self, wanted: Iterable[Tensor], stream: list[Tensor], ridge: float) -> None:
        """Make projections into the groups see what is wanted, as far as a linear map of what they read gives that."""

        def batches() -> Iterator[Batch]:
            for z, state in zip(wanted, stream, strict=True):
                x = self.walk.normed_input(self.layer, self.kind, state)
                yield x, z - x, None

        correction = _solved(batches(), ridge)
        for name, (projection, axis) in self.tensors.items():
            # Which experts a token goes to was learned with the router as it is.
            if axis == 0 and name != ROUTER:
                _add(projection, projection.weight.double() @ correction)

    def correct_output(
        self, stream: list[Tensor], dense_stream: list[Tensor], weights: list[Tensor], ridge: float
    ) -> list[Tensor]:
        """Make the projection out of the groups make up for errors; gives the states behind the block."""
        inputs: list[Tensor] = []
        output, module = projection_out(self.tensors), self.module

        def batches() -> Iterator[Batch]:
            for before, after, weight in zip(stream, dense_stream, weights, strict=True):
                given = self.walk.module_output(self.layer, self.kind, before)
                yield inputs[-1], self._error(before, after, given), weight

        handle = output.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
        try:
            with every_expert(module):
                correction = _correction(batches(), ridge, layout_of(module))
        finally:
            handle.remove()
        _add(output, correction)
        return [self._behind(state, x) for state, x in zip(stream, inputs, strict=True)]

    def _error(self, before: Tensor, after: Tensor, given: Tensor) -> Tensor:
        """Give what the module should give besides what it gives.

        Args:
            before: The pruned model's state before the module.
            after: The dense model's behind it.
        """
        residual = self.walk.stream(after) - self.walk.stream(before).to(after.device)
        return wanted_output(self.walk, self.layer, self.kind, residual, given) - given

    def _behind(self, before: Tensor, x: Tensor) -> Tensor:
        """Give the state behind the block where its projection out has x as input."""
        output, module = projection_out(self.tensors), self.module
        given = F.linear(x, output.weight, output.bias)
        if isinstance(module, Mixture):
            given = given + module.beside(self.walk.normed_input(self.layer, self.kind, before))
        post_norm = block_names(self.walk.family, self.kind).post_norm
        return self.walk.add(self.kind, before, self.walk.scaled(self.walk.layers[self.layer], post_norm, given))


def _correction(batches: Iterable[Batch], ridge: float, layout: ExpertLayout | None) -> Float[Tensor, "hidden columns"]:
    """Give what to add to a projection so that it makes up for errors; expert after expert where there are some.

    A system of all channels of a mixture is too large to solve (see `pruning.mixture_statistics`).

    Args:
        batches: What the projection reads, the error, and how much a token weighs.
    """
    if layout is None:
        return _solved(batches, ridge)
    corrections, left = [], list(batches)
    for expert in range(layout.num_experts):
        own = [(layout.split(x, -1)[..., expert, :], error, weight) for x, error, weight in left]
        correction = _solved(own, ridge)
        left = [
            (whole, error - F.linear(x, correction.to(x.dtype)), weight)
            for (whole, _, _), (x, error, weight) in zip(left, own, strict=True)
        ]
        corrections.append(correction)
    return layout.join(torch.stack(corrections, dim=1), 1)


def _add(projection: nn.Linear, change: Tensor) -> None:
    weight = (projection.weight.double() + change).to(projection.weight.dtype)
    projection.weight = nn.Parameter(weight, requires_grad=False)


def wanted_output(walk: DecoderWalk, layer: int, kind: BlockKind, residual: Tensor, output: Tensor) -> Tensor:
    """Give what the projection out of the groups should give, so that the block adds `residual`.

    Where a norm is behind it, that divides by the output's own length and multiplies by its weight; what it should have
    been given is the residual over that weight, at the length that the output has.
    """
    if walk.family.residual_scale:
        residual = residual / getattr(walk.layers[layer], walk.family.residual_scale)
    post_norm = block_names(walk.family, kind).post_norm
    if not post_norm:
        return residual
    norm = walk.layers[layer].get_submodule(post_norm)
    weight = norm(torch.ones_like(residual[..., :1, :]))
    length = output.float().square().mean(-1, keepdim=True).sqrt().to(residual.dtype)
    return torch.where(weight.abs() < SMALLEST_WEIGHT, output, residual / weight * length)
