"""The final norm's gain, matched to a pruned model that is less sure than the dense one."""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.model.families import Family
from secateur.model.walk import DecoderWalk

# One number is fitted, so few tokens do; with a large vocabulary the head is what they cost.
MOST_TOKENS = 8_192
# Rows whose logits exist at the same time.
ROWS = 1_024
LEAST_GAIN, MOST_GAIN = 0.5, 1.2
# A step of Newton's method squares the error, so behind one this short less than a thousandth is left.
LAST_STEP = 0.02
MOST_STEPS = 8
# A gain this near to 1 is rounding.
LEAST_CHANGE = 1e-5


class DenseDistribution:
    """What the dense model says of the tokens that follow the first of a set, `ROWS` positions at a time.

    Kept where it fits, since every candidate is matched to the same; else computed again each time.
    """

    def __init__(
        self, walk: DecoderWalk, stream: Sequence[Float[Tensor, "_windows length state"]], cache_bytes: int
    ) -> None:
        """Take the first tokens of the residual stream after the last block."""
        self._walk = walk
        self._normed = walk.final_norm(first_rows(stream))
        self.fits = len(self._normed) * walk.model.config.vocab_size * 4 <= cache_bytes
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Float[Tensor, "rows vocabulary"]]:
        if self.fits and not self._kept:
            self._kept = list(self._given())
        return iter(self._kept) if self.fits else self._given()

    @torch.no_grad()
    def _given(self) -> Iterator[Tensor]:
        for rows in self._normed.split(ROWS):
            yield self._walk.logits(rows).float().softmax(-1)


def first_rows(stream: Sequence[Float[Tensor, "_windows length state"]]) -> Float[Tensor, "rows state"]:
    """Give the states of the tokens that the gain is fitted on."""
    rows: list[Tensor] = []
    for batch in stream:
        rows.append(batch.flatten(0, -2)[: MOST_TOKENS - sum(map(len, rows))])
    return torch.cat(rows)


@torch.no_grad()
def match_final_norm(
    pruned_walk: DecoderWalk,
    wanted: Iterable[Float[Tensor, "rows vocabulary"]],
    pruned_stream: Sequence[Float[Tensor, "_windows length state"]],
) -> float:
    """Scale the pruned model's final norm, in place, by the gain with the least KL(dense || pruned).

    The residual stream of a pruned model is the dense one's plus an error, and the best guess of the former from the
    latter is shorter than it. Least squares makes it so in every projection, but the final norm makes it as long
    again, and the pruned model surer of itself than it may be.

    Args:
        wanted: The dense model's probabilities (`DenseDistribution`) on the same tokens.
        pruned_stream: After the last block, on the calibration set.

    Returns:
        The gain; 1 leaves the model as it was.

    Source:
        Temperature scaling (arXiv 1706.04599), against the dense model's distribution in place of labels.
    """
    normed = pruned_walk.final_norm(first_rows(pruned_stream)).split(ROWS)
    # The first rows lead near, so that all of them are looked at once or twice.
    gain = _least_divergence(pruned_walk, normed[:1], wanted, 1.0)
    gain = _least_divergence(pruned_walk, normed, wanted, gain)
    if abs(gain - 1) < LEAST_CHANGE:
        return 1.0
    scale_output(attrgetter(pruned_walk.family.final_norm)(pruned_walk.model), gain, pruned_walk.family)
    return gain


def _least_divergence(
    walk: DecoderWalk, normed: Sequence[Tensor], wanted: Iterable[Float[Tensor, "rows vocabulary"]], gain: float
) -> float:
    """Find the gain by Newton's method, held between the gains known to be too small and too large.

    Logits are linear in the gain, and their KL convex, but in families that cap them.
    """
    low, high = LEAST_GAIN, MOST_GAIN
    for _ in range(MOST_STEPS):
        slope, curvature = 0.0, 0.0
        for rows, p in zip(normed, wanted, strict=False):
            logits, rise = walk.gained_logits(rows, gain)
            q = logits.softmax(-1)
            weighted = q * rise
            mean = weighted.sum(-1)
            slope += float((mean - torch.linalg.vecdot(p.to(rise.device), rise)).sum())
            curvature += float((torch.linalg.vecdot(weighted, rise) - mean.square()).sum())
        low, high = (low, gain) if slope > 0 else (gain, high)
        wished = gain - slope / curvature if curvature > 0 else gain
        # Far from the least KL a step may lead past the other end of what is left; half way there does not.
        step = wished if low <= wished <= high else (low + high) / 2
        gain, before = step, gain
        if step == wished and abs(gain - before) < LAST_STEP:
            break
    return gain


def scale_output(module: nn.Module, gain: float, family: Family) -> None:
    """Scale what a projection or a norm gives, in place: its weight, or what a norm multiplies by, and its bias."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        added = float(family.norms_add_one and name == "weight" and not isinstance(module, nn.Linear))
        setattr(module, name, nn.Parameter((parameter.detach() + added) * gain - added, requires_grad=False))
