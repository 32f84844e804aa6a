"""What work of a run costs: the amounts that it depends on, and the seconds of each kind at a machine's speeds."""

import math
from dataclasses import dataclass

from secateur.config import RunConfig
from secateur.data import Role
from secateur.inputs import Inputs
from secateur.model.shape import DenseShape
from secateur.pruning.final_norm import MOST_TOKENS as FITTED_TOKENS
from secateur.recipe import Recipe
from secateur.search.task import SearchTask
from secateur.search.uniform import uniform_architectures
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace
from secateur.stages.probe import Speeds

# In pieces of thinking (`Speeds.thinking`): a fit of the predictor with its cross-validation on n pairs of m modules
# takes FIT + sqrt(n) (FIT_PAIRS + m FIT_MODULES), a proposal PROPOSAL.
FIT, FIT_PAIRS, FIT_MODULES = 12.0, 2.0, 0.2
PROPOSAL = 22.0
# Gains are fitted through a model that keeps what it needs for the way back: forwards, and more than twice that back.
THERE_AND_BACK = 3.5


@dataclass(frozen=True)
class Amounts:
    """What the work of a run depends on.

    Attributes:
        num_tokens: Per role; of groups together in `group_tokens`.
        baselines: How many uniform models are evaluated beside.
        alternative: The other space and its budget, where it is asked for.
        state_bytes: Of one token's state.
        recovery_tokens: Of the recovery set, where there is one.
    """

    config: RunConfig
    shape: DenseShape
    space: SearchSpace
    budget: Budget
    num_tokens: dict[Role, int]
    group_tokens: dict[Role, int]
    baselines: int
    alternative: tuple[SearchSpace, Budget] | None
    state_bytes: int
    recovery_tokens: int = 0

    @classmethod
    def of(cls, config: RunConfig, inputs: Inputs) -> "Amounts":
        groups = inputs.groups.values()
        wanted = config.baselines.uniform and config.budget.max_drop is None and not config.space.hidden
        alternative = inputs.alternative
        return cls(
            config=config,
            shape=inputs.dense.shape,
            space=inputs.space,
            budget=inputs.budget,
            num_tokens={role: tokens.num_tokens for role, tokens in inputs.sets.items()},
            group_tokens={
                role: sum(sets[role].num_tokens for sets in groups) for role in (Role.SELECTION, Role.EVALUATION)
            },
            baselines=len(uniform_architectures(inputs.dense.shape, inputs.budget)) if wanted else 0,
            alternative=(alternative.space, alternative.budget) if alternative else None,
            state_bytes=inputs.walk.state_size * inputs.dense.model.dtype.itemsize,
            recovery_tokens=inputs.recovery.num_tokens if inputs.recovery else 0,
        )

    @property
    def reconstructs(self) -> bool:
        return self.config.pruning.reconstruction == "sequential"

    @property
    def search_task(self) -> SearchTask:
        """What decides how measurements are shared out."""
        search = self.config.search
        reconstructs = self.reconstructs and search.method == "secateur" and search.reconstructed_share > 0
        return SearchTask(
            space=self.space,
            budget=self.budget,
            errors=(),
            measure=_never,
            measure_reconstructed=_never if reconstructs else None,
            reconstructed_share=search.reconstructed_share,
            num_measurements=search.measurements,
            num_rounds=search.rounds,
            initial_share=search.initial_share,
            seed=self.config.seed,
        )


def _never(_batch: list[Candidate]) -> list[Measurement]:
    raise AssertionError("nothing is measured to count the work")


@dataclass(frozen=True)
class Prices:
    """Seconds of what a run is made of, at the speeds of a machine."""

    amounts: Amounts
    speeds: Speeds

    @property
    def layers(self) -> int:
        return self.amounts.shape.num_layers

    def tokens(self, role: Role) -> int:
        return self.amounts.num_tokens[role] + self.amounts.group_tokens.get(role, 0)

    def dense(self, tokens: int) -> float:
        """A pass of the dense model, and its probabilities."""
        return tokens * (self.layers * self.speeds.forward_token + self.speeds.head_token)

    def sliced(self, tokens: int) -> float:
        return tokens * (self.layers * self.speeds.slices_token + self.speeds.head_token)

    def scored(self, tokens: int) -> float:
        """A pass of a model that was made."""
        return tokens * (self.layers * self.speeds.made_token + self.speeds.head_token)

    def streams(self, tokens: int) -> float:
        """The dense model's streams, where they are kept; else of every reconstruction (`module`)."""
        return tokens * self.layers * self.speeds.forward_token

    def module(self, tokens: int) -> float:
        """Reconstruction of one module."""
        again = 0.0 if self.keeps_streams(tokens) else self.speeds.forward_token * tokens
        return (self.speeds.reconstruct + self.speeds.reconstruct_token * tokens + self.speeds.cut + again) / 2

    def keeps_streams(self, tokens: int) -> bool:
        wanted = tokens * self.amounts.state_bytes * (2 * self.layers + 1)
        return wanted <= self.amounts.config.evaluation.cache_bytes

    def final_norm(self, tokens: int) -> float:
        return self.speeds.final_norm_token * min(tokens, FITTED_TOKENS)

    def reconstructed(self) -> float:
        """A candidate that is measured after reconstruction."""
        tokens = min(self.amounts.config.search.reconstructed_tokens, self.amounts.num_tokens[Role.CALIBRATION])
        made = 2 * self.layers * self.module(tokens) + self.final_norm(tokens)
        return made + self.scored(self.tokens(Role.SELECTION))

    def fit(self, pairs: int) -> float:
        """A fit of the predictor, and what it proposes next."""
        modules = self.amounts.shape.num_modules
        pieces = FIT + math.sqrt(pairs) * (FIT_PAIRS + modules * FIT_MODULES)
        if self.amounts.config.search.predictor != "auto":
            pieces /= 2
        several = len(self.amounts.config.data.groups) or 1
        return self.speeds.thinking * (pieces * several + PROPOSAL * (1 if several == 1 else 3))

    @property
    def recipe(self) -> Recipe:
        """The recipe of the recovery, with what it leaves open decided."""
        windows = self.amounts.recovery_tokens // self.amounts.config.data.sequence_length
        return self.amounts.config.recovery.resolved(windows, dense=True)

    def trained(self, tokens: int) -> float:
        """Steps of a recovery on so many tokens."""
        made = THERE_AND_BACK * self.layers * self.speeds.made_token
        taught = self.dense(tokens) if self.recipe.learns_from_dense else 0.0
        return tokens * (made + self.speeds.gradients_token) + taught

    @property
    def gains(self) -> float:
        """One evaluation of the gains."""
        tokens = min(FITTED_TOKENS, self.amounts.num_tokens[Role.CALIBRATION])
        return tokens * (THERE_AND_BACK * self.layers * self.speeds.made_token + self.speeds.gradients_token)
