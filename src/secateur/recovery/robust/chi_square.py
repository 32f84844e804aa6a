"""The mixture of domains that is worst for a model, among those near a given one."""

import torch
from jaxtyping import Float
from torch import Tensor


def worst_mixture(
    losses: Float[Tensor, " domains"], given: Float[Tensor, " domains"], radius: float
) -> Float[Tensor, " domains"]:
    """Give the shares q that maximise sum q_g l_g within a chi-square ball around given shares p.

        sum_g p_g (q_g / p_g - 1)^2 <= radius,  q >= 0,  sum q = 1

    Exact, in as many steps as there are domains. The optimum is q_g = p_g max(0, 1/P + s (l_g - m)): on the domains
    that keep a share, whose given shares sum to P, it is linear in the loss around their mean m, and s spends what the
    ball leaves, s^2 V = radius + 1 - 1/P with V = sum p_g (l_g - m)^2. Which domains keep a share is found by leaving
    out the lowest losses one after the other. Where the ball holds the worst domain alone, that has everything.

    Args:
        given: All above zero; their sum is one.
        radius: 0 gives `given`; 1 / p_g - 1 lets domain g have everything.

    Raises:
        ValueError: A radius is negative, or given shares are not those of a mixture.
    """
    if radius < 0 or not bool((given > 0).all()) or abs(float(given.sum()) - 1) > 1e-6:
        raise ValueError(
            "`radius >= 0`, and shares above zero that sum to 1, must hold, "
            f"but got radius={radius}, shares={given.tolist()}"
        )
    own, p = losses.double(), given.double() / given.double().sum()
    worst = own == own.max()
    alone = torch.where(worst, p, 0) / p[worst].sum()
    if radius >= 1 / float(p[worst].sum()) - 1:
        return alone
    for lowest in own.unique()[:-1]:  # ascending
        kept = own >= lowest
        total = p[kept].sum()
        centred = own - (p * own)[kept].sum() / total
        left = (radius + 1 - 1 / total).clamp(min=0)
        slope = (left / (p * centred.square())[kept].sum()).sqrt()
        shares = torch.where(kept, p * (1 / total + slope * centred), 0)
        if bool((shares >= 0).all()):
            return shares / shares.sum()
    return alone
