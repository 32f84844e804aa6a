"""Sequential reconstruction: the chosen model's output projections, solved again on its own activations."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.shape import decoder_layers, group_tensors, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.importance import damped
from secateur.space.architecture import Architecture


@torch.no_grad()
def reconstruct_in_sequence(
    dense: DenseModel,
    walk: DecoderWalk,
    pruned: PreTrainedModel,
    architecture: Architecture,
    calibration: TokenSet,
    batch_tokens: int,
    ridge: float,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Refit every output projection of `pruned` in place, from the first module to the last.

    With x the projection's input in the pruned model, r the dense residual stream after the module minus the pruned one
    before it, and W_0 the projection as it is, each solves

        min over W of  mean ||W x + b - r||^2 + lambda ||W - W_0||^2

    so that later modules correct what earlier ones have lost. The target "dense module output" instead of r ignores
    the errors made before and measured worse.

    Args:
        walk: Walk of the dense model.
        ridge: lambda as a share of the mean diagonal of E[x x^T]; it draws towards the bank's solution.
        advance: Called after every module.
    """
    windows = calibration.expect(Role.CALIBRATION).tokens
    batches = windows.to(walk.device).split(max(1, batch_tokens // windows.shape[1]))
    pruned_walk = DecoderWalk(pruned, dense.family, source=walk)
    dense_stream = [walk.embed(batch) for batch in batches]
    pruned_stream = [pruned_walk.embed(batch) for batch in batches]
    for index, width in enumerate(architecture.widths):
        layer, kind = module_of(index)
        dense_stream = [walk.block(layer, kind, hidden) for hidden in dense_stream]
        if width:
            tensors = group_tensors(decoder_layers(pruned, dense.family)[layer], dense.family, kind)
            output = next(projection for projection, axis in tensors.values() if axis == 1)
            inputs = _inputs_of(output, partial(pruned_walk.block, layer, kind), pruned_stream)
            residuals = [after - before for after, before in zip(dense_stream, pruned_stream, strict=True)]
            output.weight = nn.Parameter(_solve(output, inputs, residuals, ridge), requires_grad=False)
            pruned_stream = [
                before + F.linear(x, output.weight, output.bias)
                for before, x in zip(pruned_stream, inputs, strict=True)
            ]
        advance()


def _inputs_of(output: nn.Linear, run: Callable[[Tensor], Tensor], stream: list[Tensor]) -> list[Tensor]:
    inputs: list[Tensor] = []
    handle = output.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    try:
        for hidden in stream:
            run(hidden)
    finally:
        handle.remove()
    return inputs


def _solve(output: nn.Linear, inputs: list[Tensor], targets: list[Tensor], ridge: float) -> Tensor:
    columns = output.in_features
    gram = torch.zeros(columns, columns, device=output.weight.device)
    cross = torch.zeros(columns, output.out_features, device=output.weight.device)
    for x, target in zip(inputs, targets, strict=True):
        flat = x.flatten(0, -2).float()
        left_over = (target - output(x)).flatten(0, -2).float()
        gram += flat.T @ flat
        cross += flat.T @ left_over
    change = torch.linalg.solve(damped(gram, ridge), cross.double())
    return (output.weight.double() + change.T).to(output.weight.dtype)
