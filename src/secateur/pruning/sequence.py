"""Sequential reconstruction: the chosen model's projections, solved again on its own activations."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.mixture import ROUTER, ExpertLayout, Mixture, every_expert, layout_of
from secateur.model.shape import BlockKind, block_names, decoder_layers, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.final_norm import DenseDistribution, match_final_norm
from secateur.pruning.importance import damped
from secateur.space.architecture import Architecture

# Of a norm's weight behind a projection, below which nothing is asked of that channel.
SMALLEST_WEIGHT = 1e-2
# Of the median token's mean square: a stream shorter than that counts as one so long.
LEAST_SQUARE = 1e-3


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
        self._bytes_left = cache_bytes - all_bytes if self._fits else cache_bytes
        self._kept: list[list[Tensor]] = []
        self._distribution: DenseDistribution | None = None

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Give 1 + number of modules streams, each a list of batches."""
        if self._fits and not self._kept:
            self._kept = list(self._given())
        return iter(self._kept) if self._fits else self._given()

    def distribution(self, walk: DecoderWalk, last: list[Tensor]) -> DenseDistribution:
        """Give what the dense model says of the tokens, from its stream after the last module; kept where it fits.

        Args:
            walk: Of the model whose final norm and head read that stream.
        """
        if self._distribution is None or not self._distribution.fits:
            self._distribution = DenseDistribution(walk, last, self._bytes_left)
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
    pruned_stream = [pruned_walk.embed(batch) for batch in streams.batches]
    dense_streams = iter(streams)
    dense_stream = next(dense_streams)
    for index, width in enumerate(architecture.widths):
        layer, kind = module_of(index)
        dense_before, dense_stream = dense_stream, next(dense_streams)
        if not width:
            pruned_stream = [pruned_walk.add(kind, state, None) for state in pruned_stream]
        else:
            tensors = group_tensors(decoder_layers(pruned, dense.family)[layer], dense.family, kind)
            output = projection_out(tensors)
            # Which experts a token goes to was learned with the router as it is.
            into_groups = [projection for name, (projection, axis) in tensors.items() if axis == 0 and name != ROUTER]
            names = block_names(dense.family, kind)
            module = pruned_walk.layers[layer].get_submodule(names.module)
            # Of what is as large as the stream only one batch is made at a time: the set's tokens outweigh a layer.
            read = partial(pruned_walk.normed_input, layer, kind)
            wanted = (walk.normed_input(layer, kind, state) for state in dense_before)
            missing = (z - read(state) for z, state in zip(wanted, pruned_stream, strict=True))
            _correct_inputs(into_groups, map(read, pruned_stream), missing, ridge)
            with every_expert(module):
                inputs = _inputs_of(output, partial(pruned_walk.branch, layer, kind), pruned_stream)
            give = partial(_given, pruned_walk, layer, kind, output)
            errors = map(partial(_error, pruned_walk, layer, kind, give), inputs, pruned_stream, dense_stream)
            weights = (inverse_squares(walk.stream(state)) for state in dense_stream)
            _add(output, _correction(inputs, errors, ridge, weights, layout_of(module)))
            scaled = partial(pruned_walk.scaled, pruned_walk.layers[layer], names.post_norm)
            pruned_stream = [
                pruned_walk.add(kind, state, scaled(give(x, state)))
                for state, x in zip(pruned_stream, inputs, strict=True)
            ]
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
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    for x, y, w in zip(inputs, targets, itertools.repeat(None) if weights is None else weights, strict=False):
        flat = x.flatten(0, -2).float()
        weighted = flat if w is None else flat * w.reshape(-1, 1)
        gram = gram + weighted.T @ flat
        cross = cross + weighted.T @ y.flatten(0, -2).float()
    assert isinstance(gram, Tensor)
    assert isinstance(cross, Tensor)
    return torch.linalg.solve(damped(gram, ridge), cross.double()).T


def _correction(
    inputs: list[Tensor],
    errors: Iterable[Tensor],
    ridge: float,
    weights: Iterable[Tensor],
    layout: ExpertLayout | None,
) -> Float[Tensor, "hidden columns"]:
    """Give what to add to a projection so that it makes up for errors; expert after expert where there are some.

    A system of all channels of a mixture is too large to solve (see `pruning.mixture_statistics`).
    """
    if layout is None:
        return least_squares(inputs, errors, ridge, weights)
    corrections, errors, weights = [], list(errors), list(weights)
    for expert in range(layout.num_experts):
        own = [layout.split(x, -1)[..., expert, :] for x in inputs]
        correction = least_squares(own, errors, ridge, weights)
        errors = [error - F.linear(x, correction.to(x.dtype)) for error, x in zip(errors, own, strict=True)]
        corrections.append(correction)
    return layout.join(torch.stack(corrections, dim=1), 1)


def _correct_inputs(
    projections: list[nn.Linear], normed: Iterable[Tensor], missing: Iterable[Tensor], ridge: float
) -> None:
    """Make projections see what is missing from `normed` too, as far as a linear map of it gives that."""
    correction = least_squares(normed, missing, ridge)
    for projection in projections:
        _add(projection, projection.weight.double() @ correction)


def _add(projection: nn.Linear, change: Tensor) -> None:
    weight = (projection.weight.double() + change).to(projection.weight.dtype)
    projection.weight = nn.Parameter(weight, requires_grad=False)


def _given(walk: DecoderWalk, layer: int, kind: BlockKind, output: nn.Linear, x: Tensor, before: Tensor) -> Tensor:
    """Give what a module gives where its projection out has x as input, with what stands beside a mixture's experts."""
    module = walk.layers[layer].get_submodule(block_names(walk.family, kind).module)
    given = F.linear(x, output.weight, output.bias)
    return given + module.beside(walk.normed_input(layer, kind, before)) if isinstance(module, Mixture) else given


def _error(
    walk: DecoderWalk,
    layer: int,
    kind: BlockKind,
    give: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    before: Tensor,
    after: Tensor,
) -> Tensor:
    """Give what a module should give besides what it gives.

    Args:
        walk: Of the pruned model.
        give: What the module gives (`_given`).
        x: Input of the projection out.
        before: The pruned model's state before the module.
        after: The dense model's behind it.
    """
    given = give(x, before)
    residual = walk.stream(after) - walk.stream(before).to(after.device)
    return wanted_output(walk, layer, kind, residual, given) - given


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


def _inputs_of(output: nn.Linear, run: Callable[[Tensor], Tensor], stream: list[Tensor]) -> list[Tensor]:
    """Give what goes into a module's output projection when the module runs on a stream."""
    inputs: list[Tensor] = []
    handle = output.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    try:
        for hidden in stream:
            run(hidden)
    finally:
        handle.remove()
    return inputs
