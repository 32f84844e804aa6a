"""One gain for the output of every module and for the final norm, matched to the dense model's distribution."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from secateur.model.families import Family
from secateur.model.shape import block_names, decoder_layers, module_of, outputs_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.final_norm import LEAST_GAIN, MOST_TOKENS, ROWS, scale_output
from secateur.space.architecture import Architecture

# More of both change nothing that is seen (docs/log.md): a gain per module is little to learn.
MOST_EVALUATIONS = 8
MOST_STEPS = 5
MOST_GAIN = 1.5
# Activations of a batch that are kept for the way back; more than this, and they are made again, block by block.
KEPT_BYTES = 1 << 27


def match_gains(
    walk: DecoderWalk,
    pruned_walk: DecoderWalk,
    architecture: Architecture,
    batches: Sequence[Tensor],
    advance: Callable[[], None] = lambda: None,
) -> dict[nn.Module, float]:
    """Find what every output projection, and the final norm, should be scaled by for the least KL(dense || pruned).

    Sequential reconstruction makes each module's output right in mean square, whatever later modules and the head make
    of it: errors that change the next token count no more than others. These few numbers are fitted to what does count.

    Args:
        walk: Walk of the dense model.
        batches: Windows of the calibration set, (windows, length) each; the first of them, about `MOST_TOKENS` tokens,
            are used.
        advance: Called `MOST_EVALUATIONS` times, for an evaluation each or, where fewer do, at the end.

    Returns:
        Gain by module, to be applied with `scaled_by`; empty where none lowers the KL.
    """
    family = pruned_walk.family
    layers = decoder_layers(pruned_walk.model, family)
    outputs: dict[int, list[nn.Module]] = {}
    for index, width in enumerate(architecture.widths):
        if width:
            layer, kind = module_of(index)
            post_norm = block_names(family, kind).post_norm
            # A norm behind the projection would undo what scales that.
            outputs[index] = (
                [layers[layer].get_submodule(post_norm)] if post_norm else [*outputs_of(layers[layer], family, kind)]
            )
    left = MOST_EVALUATIONS

    def scaled_block(index: int, hidden: Tensor, gain: Tensor) -> Tensor:
        layer, kind = module_of(index)
        output = pruned_walk.branch(layer, kind, hidden)
        return pruned_walk.add(kind, hidden, gain.to(output.device, output.dtype) * output)

    windows = torch.cat(list(batches))[: -(-MOST_TOKENS // batches[0].shape[1])]
    fitting = KEPT_BYTES // _kept_bytes(scaled_block, outputs, pruned_walk.embed(windows[:1]))
    chosen = windows.split(min(fitting, len(batches[0])) or len(batches[0]))
    wanted = walk.normed(chosen)

    @torch.enable_grad()
    def divergence(values: Float[np.ndarray, " gains"]) -> tuple[float, Float[np.ndarray, " gains"]]:
        nonlocal left
        gains = torch.tensor(values, dtype=torch.float32, device=walk.device, requires_grad=True)
        total = 0.0
        for batch, normed in zip(chosen, wanted, strict=True):
            hidden = pruned_walk.embed(batch)
            for place, index in enumerate(outputs):
                if fitting:
                    hidden = scaled_block(index, hidden, gains[place])
                else:
                    hidden = checkpoint(scaled_block, index, hidden, gains[place], use_reentrant=False)
            total += _backward(
                walk, pruned_walk, normed, pruned_walk.final_norm(hidden) * gains[-1].to(hidden.device, hidden.dtype)
            )
        if left:
            left -= 1
            advance()
        tokens = sum(batch.numel() for batch in chosen)
        assert gains.grad is not None
        return total / tokens, (gains.grad / tokens).double().cpu().numpy()

    ones = np.ones(len(outputs) + 1)
    found = minimize(
        divergence,
        ones,
        jac=True,
        method="L-BFGS-B",
        bounds=[(LEAST_GAIN, MOST_GAIN)] * len(ones),
        options={"maxiter": MOST_STEPS, "maxfun": MOST_EVALUATIONS},
    )
    for _ in range(left):
        advance()
    if (found.x == ones).all():
        return {}
    norm = attrgetter(family.final_norm)(pruned_walk.model)
    pairs = zip([*outputs.values(), [norm]], found.x.tolist(), strict=True)
    return {module: gain for modules, gain in pairs for module in modules}


def scaled_by(gains: Mapping[nn.Module, float], family: Family) -> Callable[[], None]:
    """Scale modules in place, their bias with them; returns what takes it back exactly."""
    before = [(module, name, parameter) for module in gains for name, parameter in module.named_parameters()]
    for module, gain in gains.items():
        scale_output(module, gain, family)

    def take_back() -> None:
        for module, name, parameter in before:
            setattr(module, name, parameter)

    return take_back


@torch.enable_grad()
def _kept_bytes(run: Callable[[int, Tensor, Tensor], Tensor], blocks: Iterable[int], hidden: Tensor) -> int:
    """Count what autograd would keep of a pass through blocks, and keep none of it."""
    total = 1

    def count(tensor: Tensor) -> None:
        nonlocal total
        total += tensor.nbytes

    hidden = hidden.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda nothing: nothing):
        for index in blocks:
            hidden = run(index, hidden, torch.ones(()))
    return total


def _backward(
    walk: DecoderWalk,
    pruned_walk: DecoderWalk,
    wanted: Float[Tensor, "windows length hidden"],
    normed: Float[Tensor, "windows length kept"],
) -> float:
    """Give the summed KL(dense || pruned) in nats, and send its gradient back; logits of few rows exist at a time."""
    cut = normed.detach().requires_grad_(True)
    total = 0.0
    for p, q in zip(wanted.flatten(0, 1).split(ROWS), cut.flatten(0, 1).split(ROWS), strict=True):
        with torch.no_grad():
            log_p = walk.logits(p).float().log_softmax(-1)
        log_q = pruned_walk.logits(q).float().log_softmax(-1)
        kl = (log_p.exp() * (log_p - log_q)).sum()
        kl.backward()
        total += float(kl.detach())
    normed.backward(cut.grad)
    return total
