"""The recipe of a recovery as a user asks for it: a section of the configuration."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from secateur.errors import ConfigError, suggestion
from secateur.schema import Record

# LLM-Pruner's rate for LoRA on Llama-7B, which has so many hidden channels.
PUBLISHED_RATE, PUBLISHED_HIDDEN = 1e-4, 4_096
HIGHEST_RATE = 5e-3
# Small models and little text do better with more and smaller steps, down to a few windows each (docs/log.md);
# LLM-Pruner takes 64 sequences of 256 tokens.
USUAL_STEPS, FEWEST_WINDOWS, MOST_WINDOWS = 400, 2, 64
# An adversary weighs the windows of a step against each other: of two it would learn little.
FEWEST_WEIGHED = 8
# Half of the loss, where there is a dense model: better than none of it on both models of docs/log.md.
USUAL_DISTILL = 0.5
# Of what training every tried recipe to the end would take, what trying them takes at most; the recipe as given and
# another one go on, or nothing would be chosen.
SHARE_OF_TOKENS = 0.5
LEAST_FINALISTS = 2


class Recipe(Record):
    """How what was cut is trained to make up for it."""

    method: Literal["none", "lora", "qlora", "full"] = Field(
        "none", description="lora: low-rank changes of the projections; qlora: on 4-bit weights; full: every weight"
    )
    tokens: int = Field(1_000_000, ge=1, description="of the recovery set, at most")
    epochs: float = Field(2.0, gt=0, description="times that the recovery set is gone through")
    batch_windows: int = Field(
        0, ge=0, description="windows per step; 0: as many as give 400 steps, from 2 (with an adversary 8) to 64"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak; default: 1e-4 at 4,096 hidden channels, and in inverse proportion to them"
    )
    schedule: Literal["linear", "cosine", "stable"] = Field(
        "linear", description="how the rate falls; stable: only in the last fifth"
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps over which the rate rises")
    weight_decay: float = Field(0.0, ge=0, description="of what is trained")
    rank: int = Field(32, ge=1, description="lora, qlora: rank of a change")
    alpha: int = Field(32, ge=1, description="lora, qlora: changes count alpha / rank times")
    dropout: float = Field(0.0, ge=0, lt=1, description="lora, qlora: share of inputs that a change misses")
    modules: Literal["all", "attention", "mlp"] = Field("all", description="lora, qlora: projections that are adapted")
    distill: float | None = Field(
        None, ge=0, le=1, description="share of KL(dense || model) in the loss; default: 0.5 with a dense model, else 0"
    )
    hidden_share: float = Field(0.0, ge=0, description="weight of the distance from the dense model's hidden states")
    top_k: int = Field(64, ge=1, description="of distillation: dense probabilities told apart per token")
    teacher: Literal["auto", "cached", "asked"] = Field(
        "auto", description="of distillation: ask the dense model once, and keep it in files, or at every step"
    )
    teacher_bytes: int = Field(8 << 30, ge=0, description="that those files may take, where it is auto")
    soup: int = Field(
        0, ge=0, description="recoveries with other seeds (order of the text, adapters) whose greedy soup is the result"
    )
    judgements: int = Field(10, ge=1, description="times that the selection set is asked")
    patience: int = Field(3, ge=1, description="of them without a better one, after which training ends")
    checkpointing: bool = Field(
        False, description="compute the insides of layers a second time instead of keeping them: less memory, more time"
    )
    trials: int = Field(0, ge=0, description="recipes that are tried early, this one first; 0: this one, untried")
    rung: float = Field(0.2, gt=0, lt=0.5, description="share of a training at which a tried recipe is judged")
    finalists: int = Field(
        3, ge=2, description="tried recipes that go on to the end, this one always; fewer where half the tokens end"
    )

    @model_validator(mode="after")
    def _enough_trials(self) -> "Recipe":
        """Refuse so few attempts that their rungs leave no tokens for two of them."""
        least = math.ceil(LEAST_FINALISTS / (SHARE_OF_TOKENS - self.rung) - 1e-9)
        if 0 < self.trials < least:
            raise ValueError(
                f"trials={self.trials} are too few to choose from: at rung={self.rung:g} at least {least} are needed, "
                f"so that {LEAST_FINALISTS} can go on to the end with half the tokens of all; give more, or 0"
            )
        return self

    robust: Literal["none", "groups", "ratio", "p-dro"] = Field(
        "none",
        description="weigh what loses most over the dense model: by named domains, or by an adversary without names",
    )
    robust_radius: float = Field(
        2.0, ge=0, description="groups: chi-square distance that domains may be drawn from their given shares"
    )
    robust_tau: float = Field(
        0.1, gt=0, description="ratio, p-dro: price of leaving the given text, nats per token; lower: further away"
    )
    robust_rate: float | None = Field(None, gt=0, description="ratio, p-dro: learning rate of the adversary")
    robust_most: float = Field(8.0, ge=1, description="ratio, p-dro: times that a window counts, at most")

    def resolved(self, windows: int, *, dense: bool) -> "Recipe":
        """Give the recipe with what it leaves open decided.

        Args:
            windows: Of the recovery set.
            dense: Whether the dense model is there.
        """
        batch = round(self.epochs * windows / USUAL_STEPS)
        fewest = FEWEST_WEIGHED if self.robust in ("ratio", "p-dro") else FEWEST_WINDOWS
        decided: dict[str, Any] = {"batch_windows": self.batch_windows or max(fewest, min(MOST_WINDOWS, batch))}
        if self.distill is None:
            decided["distill"] = USUAL_DISTILL if dense else 0.0
        return self.model_copy(update=decided)

    @property
    def learns_from_dense(self) -> bool:
        """Whether the dense model is asked what it says of the text."""
        return bool(self.distill) or self.hidden_share > 0

    @property
    def recoveries(self) -> int:
        """How many are made, one after the other."""
        return max(1, self.soup)

    def steps(self, windows: int) -> int:
        """Give the number of steps of one recovery on a recovery set of so many windows."""
        return max(1, round(self.epochs * windows / self.batch_windows))

    def all_steps(self, windows: int) -> int:
        """Give the steps of all trainings, of recipes that are tried and of recoveries for a soup, early ends aside."""
        once = self.steps(windows)
        first = round(self.trials * self.rung * once) + self.finalists * once if self.trials else once
        return first + (self.recoveries - 1) * once

    def rate(self, hidden_size: int) -> float:
        """Give the peak learning rate for a model of so many hidden channels.

        Source:
            Adam's rate for matrices falls as one over the width (Tensor Programs V, arXiv 2203.03466).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return min(HIGHEST_RATE, PUBLISHED_RATE * PUBLISHED_HIDDEN / hidden_size)


Settings = dict[str, dict[str, Any]]

# LLM-Pruner's post_training.py (arXiv 2305.11627), for 50,000 records of alpaca-cleaned: 100 of 1,556 steps warm up.
# The loss is that of the responses, as always with instructions. A step takes 64 windows, in which records lie one
# behind the other: there it takes 64 records, each in a row of its own.
LLM_PRUNER: Settings = {
    "recovery": {
        "method": "lora",
        "tokens": 20_000_000,
        "epochs": 2.0,
        "batch_windows": 64,
        "learning_rate": 1e-4,
        "schedule": "linear",
        "warmup_ratio": 0.064,
        "rank": 8,
        "alpha": 16,
        "dropout": 0.05,
        "modules": "all",
        "distill": 0.0,
    },
    "data": {"sequence_length": 256},
}

# Published recoveries as settings of a run.
RECIPES: dict[str, Settings] = {"llm-pruner": LLM_PRUNER}


def find_recipe(name: str) -> Settings:
    """Look a published recovery up.

    Raises:
        ConfigError: There is none of that name; the message lists those that there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; {suggestion(name, RECIPES)}")
    return RECIPES[name]
