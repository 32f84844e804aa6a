"""Successive halving: many candidates on few tokens, the best of them on more, on the same windows at each step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Shares of the batches that have been run after each step.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True)
class Rung:
    """A step: who is still there runs the next batches, and the best go on.

    Attributes:
        batches: Numbers of the batches that are run in it; those before it have been run already.
        survivors: How many go on, or are left after the last.
    """

    batches: range
    survivors: int


def rungs(num_batches: int, num_candidates: int, num_survivors: int) -> list[Rung]:
    """Divide the work: an eighth of the batches first, then up to a quarter, half, and all; fewer than eight in less.

    Every step keeps the same share of the candidates, so that the last choice is made on all batches:

        64 on 1/8, 32 on 1/4, 16 on 1/2, 8 on all, of which 4 are left

    for the price of 20 whole measurements.

    Source:
        Successive halving (arXiv 1502.07943), as EvoPress (arXiv 2410.14649) and Tyr-the-Pruner (arXiv 2503.09657) use
        it with token counts of their own.
    """
    if num_survivors >= num_candidates:
        return [Rung(range(num_batches), num_candidates)]
    ends = sorted({max(1, round(share * num_batches)) for share in SHARES})
    share = (num_survivors / num_candidates) ** (1 / len(ends))
    kept = [round(num_candidates * share**step) for step in range(1, len(ends) + 1)]
    return [Rung(range(start, end), count) for start, end, count in zip([0, *ends[:-1]], ends, kept, strict=True)]


def work(steps: Sequence[Rung], num_candidates: int) -> float:
    """Give what halving costs, in measurements on all batches."""
    batches, there = 0, num_candidates
    for step in steps:
        batches, there = batches + there * len(step.batches), step.survivors
    return batches / steps[-1].batches.stop


def whole_measurements(num_candidates: int, num_survivors: int) -> float:
    """Give what halving costs where there are batches for all steps, in measurements on all tokens."""
    return work(rungs(round(1 / SHARES[0]), num_candidates, num_survivors), num_candidates)


def halve(count: int, steps: Sequence[Rung], score: Callable[[list[int], Rung], Sequence[float]]) -> list[int]:
    """Give the numbers of the candidates that are left after all steps, best first.

    Args:
        count: Candidates are numbered from 0.
        score: Gives the loss of some on all batches up to the step's last; lower is better, and NaN is worst.
    """
    there = list(range(count))
    for step in steps:
        losses = score(there, step)
        keys = [(math.inf if math.isnan(loss) else loss, number) for loss, number in zip(losses, there, strict=True)]
        there = [number for _, number in sorted(keys)][: step.survivors]
    return there
