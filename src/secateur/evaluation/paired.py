"""Whether one model is better than another on the same text, given that windows differ."""

from typing import Literal

from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from secateur.evaluation.resampling import quantile_interval, resampled_means, sign_flip_p_value
from secateur.schema import Record, derive_seed


class PairedComparison(Record):
    """Two models on the same windows: what the first loses per token beyond the second."""

    first: str
    second: str
    protocol: str = Field(description="of both, such as ppl-128 or packed-256")
    unit: Literal["nats per token", "bits per byte"] = Field(
        "nats per token", description="bits per byte where the tokenizers differ"
    )
    difference: float = Field(description="mean loss of the first minus that of the second; below 0: first is better")
    low: float = Field(description="of a bootstrap over windows")
    high: float = Field(description="of a bootstrap over windows")
    confidence: float = Field(description="of the interval")
    p_value: float = Field(description="of `test`, two-sided: how often no difference gives one as large as this")
    test: str = Field("sign flips", description="paired; sign flips: each window's difference might as well be negated")
    num_windows: int = Field(description="windows, or documents, that both were evaluated on")


def compare_paired(
    first: str,
    second: str,
    protocol: str,
    differences: Float[Tensor, " blocks"],
    weights: Shaped[Tensor, " blocks"],
    seed: int,
    confidence: float = 0.95,
    unit: Literal["nats per token", "bits per byte"] = "nats per token",
) -> PairedComparison:
    """Compare two models by what they lose on the same windows.

    Args:
        differences: Per window (stretch, document), loss of the first minus that of the second, summed.
        weights: Tokens, or bytes, of each.
    """
    low, high = quantile_interval(resampled_means(differences, weights, derive_seed(seed, "bootstrap")), confidence)
    return PairedComparison(
        first=first,
        second=second,
        protocol=protocol,
        unit=unit,
        difference=float(differences.double().sum() / weights.double().sum()),
        low=low,
        high=high,
        confidence=confidence,
        p_value=sign_flip_p_value(differences, derive_seed(seed, "sign flips")),
        num_windows=len(differences),
    )
