"""One pass over the calibration set, from which every architecture is served afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.shape import decoder_layers, group_tensors, module_of
from secateur.pruning.importance import taylor_scores


@dataclass(frozen=True)
class ModuleStatistics:
    """What calibration knows of one module.

    With x the input of the output projection (`columns` = groups x group size), y the module's output and
    g the gradient of the log-likelihood of a sampled label with respect to y, summed over the window:

    Attributes:
        gram: H = mean over tokens of x x^T.
        gradient_moment: M = mean over tokens of g g^T; an output change dy then costs about 1/2 mean (g . dy)^2 nats.
        taylor: LLM-Pruner's Element1 per group, sum of |w dL/dw| over all tensors of the group.
    """

    gram: Float[Tensor, "columns columns"]
    gradient_moment: Float[Tensor, "hidden hidden"]
    taylor: Float[Tensor, " groups"]


def calibrate(
    dense: DenseModel,
    calibration: TokenSet,
    batch_tokens: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> list[ModuleStatistics]:
    """Gather the statistics of every module in module order, in one streaming pass.

    Each batch takes one forward pass and two backward passes through the same graph: with sampled labels down to the
    modules' outputs (for M), and with the text's own labels down to the weights (for Taylor importance). Memory
    does not depend on the number of tokens. Sums are float32 whatever the model computes in.

    Args:
        batch_tokens: Tokens per pass; rounded down to whole windows, at least one.
        advance: Called after every batch.

    Source:
        Element1 is LLM-Pruner's first-order Taylor importance (arXiv 2305.11627, eq. 4), here summed over the whole
        calibration set instead of 10 texts. M is the Fisher block of a layer's output, as in K-FAC (arXiv 1503.05671).
    """
    tokens = calibration.expect(Role.CALIBRATION).tokens
    model, family, shape = dense.model, dense.family, dense.shape
    layers = decoder_layers(model, family)
    blocks = [module_of(index) for index in range(shape.num_modules)]
    groups = [group_tensors(layers[layer], family, kind) for layer, kind in blocks]
    outputs = [_output_projection(tensors) for tensors in groups]
    grams = [torch.zeros(p.in_features, p.in_features, device=p.weight.device) for p in outputs]
    moments = [torch.zeros(p.out_features, p.out_features, device=p.weight.device) for p in outputs]
    weights = [projection.weight for tensors in groups for projection, _ in tensors.values()]
    taken: dict[int, Tensor] = {}

    def record(index: int) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            columns = inputs[0].detach().flatten(0, -2).float()
            grams[index] += columns.T @ columns
            taken[index] = output

        return hook

    handles = [projection.register_forward_hook(record(index)) for index, projection in enumerate(outputs)]
    was_required = [weight.requires_grad for weight in weights]
    generator = torch.Generator(device="cpu").manual_seed(seed)
    try:
        for weight in weights:
            weight.requires_grad_(True)
            weight.grad = None
        for batch in tokens.split(max(1, batch_tokens // tokens.shape[1])):
            on_device = batch.to(model.device)
            logits = model(input_ids=on_device, use_cache=False).logits.float()
            sampled = F.cross_entropy(
                logits.flatten(0, 1), _sample_labels(logits.detach(), generator).flatten(), reduction="sum"
            )
            gradients = torch.autograd.grad(sampled, [taken[i] for i in range(len(outputs))], retain_graph=True)
            for index, gradient in enumerate(gradients):
                rows = gradient.flatten(0, -2).float()
                moments[index] += rows.T @ rows
            F.cross_entropy(logits[:, :-1].flatten(0, 1), on_device[:, 1:].flatten(), reduction="sum").backward()
            taken.clear()
            advance()
        statistics = [
            ModuleStatistics(
                gram=gram / tokens.numel(),
                gradient_moment=moment / tokens.numel(),
                taylor=taylor_scores(
                    [(p.weight.detach(), _gradient(p.weight), axis) for p, axis in tensors.values()],
                    shape.block(kind).num_groups,
                ),
            )
            for gram, moment, tensors, (_, kind) in zip(grams, moments, groups, blocks, strict=True)
        ]
    finally:
        for handle in handles:
            handle.remove()
        for weight, required in zip(weights, was_required, strict=True):
            weight.requires_grad_(required)
            weight.grad = None
    return statistics


def _output_projection(tensors: dict[str, tuple[torch.nn.Linear, int]]) -> torch.nn.Linear:
    return next(projection for projection, axis in tensors.values() if axis == 1)


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "every projection takes part in the loss"
    return weight.grad


def _sample_labels(
    logits: Float[Tensor, "windows length vocabulary"], generator: torch.Generator
) -> Int[Tensor, "windows length"]:
    # Drawn on the CPU's generator by inverting the distribution function, so that a seed gives the same on any device.
    uniform = torch.rand(*logits.shape[:2], 1, generator=generator).to(logits.device)
    cumulative = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[..., -1:]).squeeze(-1).clamp(max=logits.shape[-1] - 1)
