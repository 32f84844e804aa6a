"""The recipe of a recovery as a user asks for it: a section of the configuration."""

from typing import Literal

from pydantic import Field

from secateur.schema import Record

METHODS = ("lora", "qlora", "full")
# LLM-Pruner's rate for LoRA on Llama-7B, which has so many hidden channels.
PUBLISHED_RATE, PUBLISHED_HIDDEN = 1e-4, 4_096
# Full fine-tuning moves every weight: a third of the rate does as well (docs/log.md).
FULL_FACTOR = 1.0
HIGHEST_RATE = 5e-3


class Recipe(Record):
    """How what was cut is trained to make up for it."""

    method: Literal["none", "lora", "qlora", "full"] = Field(
        "none", description="lora: low-rank changes of the projections; qlora: on 4-bit weights; full: every weight"
    )
    tokens: int = Field(1_000_000, ge=1, description="of the recovery set, at most")
    epochs: float = Field(2.0, gt=0, description="times that the recovery set is gone through")
    batch_windows: int = Field(16, ge=1, description="windows per step")
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default: 1e-4 at 4,096 hidden channels, and in inverse proportion to them"
    )
    schedule: Literal["linear", "cosine", "stable"] = Field(
        "linear", description="how the rate falls; stable: only in the last fifth"
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0, description="of what is trained")
    rank: int = Field(8, ge=1, description="lora, qlora: rank of a change")
    alpha: int = Field(16, ge=1, description="lora, qlora: changes count alpha / rank times")
    dropout: float = Field(0.05, ge=0, lt=1, description="lora, qlora: share of inputs that a change misses")
    modules: Literal["all", "attention", "mlp"] = Field("all", description="lora, qlora: projections that are adapted")
    distill: float = Field(0.0, ge=0, le=1, description="share of KL(dense || model) in the loss; the rest is the text")
    hidden_share: float = Field(0.0, ge=0, description="weight of the distance from the dense model's hidden states")
    top_k: int = Field(64, ge=1, description="of distillation: dense probabilities told apart per token")
    teacher: Literal["auto", "cached", "asked"] = Field(
        "auto", description="of distillation: ask the dense model once, and keep it in files, or at every step"
    )
    teacher_bytes: int = Field(8 << 30, ge=0, description="that those files may take, where it is auto")
    judgements: int = Field(10, ge=1, description="times that the selection set is asked")
    patience: int = Field(3, ge=1, description="of them without a better one, after which training ends")

    @property
    def learns_from_dense(self) -> bool:
        """Whether the dense model is asked what it says of the text."""
        return self.distill > 0 or self.hidden_share > 0

    def steps(self, windows: int) -> int:
        """Give the number of steps on a recovery set of so many windows."""
        return max(1, round(self.epochs * windows / self.batch_windows))

    def rate(self, hidden_size: int) -> float:
        """Give the peak learning rate for a model of so many hidden channels.

        Source:
            Adam's rate for matrices falls as one over the width (Tensor Programs V, arXiv 2203.03466).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return min(HIGHEST_RATE, PUBLISHED_RATE * PUBLISHED_HIDDEN / hidden_size)
