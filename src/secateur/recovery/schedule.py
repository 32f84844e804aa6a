"""How the learning rate goes over a training, as a factor of its peak."""

import math
from collections.abc import Callable

# Of the whole, what the last part of a `stable` training takes to bring the rate down.
COOLDOWN = 0.2


def linear(share: float) -> float:
    """Fall evenly to zero."""
    return 1 - share


def cosine(share: float) -> float:
    """Fall to zero, slowly at both ends."""
    return 0.5 * (1 + math.cos(math.pi * share))


def stable(share: float) -> float:
    """Stay, and fall to zero in the last fifth."""
    return min(1.0, (1 - share) / COOLDOWN)


SCHEDULES: dict[str, Callable[[float], float]] = {"linear": linear, "cosine": cosine, "stable": stable}


def rate_factor(name: str, step: int, steps: int, warmup_ratio: float) -> float:
    """Give the factor for a step, from 0 to `steps - 1`.

    It rises linearly over the first `warmup_ratio` of the steps, and is never zero: what the last step would waste.
    """
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SCHEDULES[name]((step - warmup) / max(1, steps - warmup))
