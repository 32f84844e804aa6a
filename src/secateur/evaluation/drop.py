"""How far quality may have dropped, given that windows differ."""

from math import sqrt

from jaxtyping import Float
from scipy.stats import t
from torch import Tensor


def drop_bound(
    differences: Float[Tensor, " windows"], num_to_come: int, confidence: float, least_variance: float = 0.0
) -> float:
    """Give what the mean drop over other windows of the same text stays below.

    With mean m and deviation s over n paired differences, and as many as k windows to come, it is
    m + t(confidence, n - 1) s sqrt(1 / n + 1 / k): the bound of a prediction, for what is promised is what will be
    measured, and not the mean over all text there is.

    Args:
        differences: Per window or question, what the pruned model has lost beside the dense one.
        num_to_come: Windows or questions on which the drop will be measured.
        confidence: One-sided.
        least_variance: Of one difference, where the sample may have none: of n answers that are all alike, one in n
            may still differ.

    Raises:
        ValueError: There is no deviation of less than two.
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"at least two windows or questions are needed for a bound, got {count}")
    values = differences.double()
    deviation = sqrt(max(float(values.var()), least_variance))
    return float(values.mean()) + float(t.ppf(confidence, count - 1)) * deviation * sqrt(1 / count + 1 / num_to_come)
