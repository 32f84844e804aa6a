"""The final norm's gain, matched to a pruned model that is less sure than the dense one."""

from collections.abc import Sequence
from operator import attrgetter

import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from secateur.model.families import Family
from secateur.model.walk import DecoderWalk

# One number is fitted, so few tokens do; with a large vocabulary the head is what they cost.
MOST_TOKENS = 8_192
# Rows whose logits exist at the same time.
ROWS = 1_024
LEAST_GAIN, MOST_GAIN = 0.5, 1.2
GAIN_TOLERANCE = 5e-3


@torch.no_grad()
def match_final_norm(
    walk: DecoderWalk,
    pruned_walk: DecoderWalk,
    dense_stream: Sequence[Float[Tensor, "_windows length hidden"]],
    pruned_stream: Sequence[Float[Tensor, "_windows length hidden"]],
) -> float:
    """Scale the pruned model's final norm, in place, by the gain with the least KL(dense || pruned).

    The residual stream of a pruned model is the dense one's plus an error, and the best guess of the former from the
    latter is shorter than it. Least squares makes it so in every projection, but the final norm makes it as long
    again, and the pruned model surer of itself than it may be.

    Args:
        dense_stream: After the last block, on the calibration set.

    Returns:
        The gain; 1 leaves the model as it was.

    Source:
        Temperature scaling (arXiv 1706.04599), against the dense model's distribution in place of labels.
    """
    hidden_size = dense_stream[0].shape[-1]
    dense = torch.cat([batch.reshape(-1, hidden_size) for batch in dense_stream])[:MOST_TOKENS]
    pruned = torch.cat([batch.reshape(-1, hidden_size) for batch in pruned_stream])[:MOST_TOKENS]
    wanted, normed = walk.final_norm(dense), pruned_walk.final_norm(pruned)

    def divergence(gain: float) -> float:
        total = 0.0
        for rows in range(0, len(normed), ROWS):
            log_p = walk.logits(wanted[rows : rows + ROWS]).float().log_softmax(-1)
            log_q = pruned_walk.logits(normed[rows : rows + ROWS] * gain).float().log_softmax(-1)
            total += float((log_p.exp() * (log_p - log_q)).sum())
        return total

    found = minimize_scalar(
        divergence, bounds=(LEAST_GAIN, MOST_GAIN), method="bounded", options={"xatol": GAIN_TOLERANCE}
    )
    gain = float(found.x) if found.fun < divergence(1.0) else 1.0
    scale_output(attrgetter(pruned_walk.family.final_norm)(pruned_walk.model), gain, pruned_walk.family)
    return gain


def scale_output(module: nn.Module, gain: float, family: Family) -> None:
    """Scale what a projection or a norm gives, in place: its weight, or what a norm multiplies by, and its bias."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        added = float(family.norms_add_one and name == "weight" and not isinstance(module, nn.Linear))
        setattr(module, name, nn.Parameter((parameter.detach() + added) * gain - added, requires_grad=False))
