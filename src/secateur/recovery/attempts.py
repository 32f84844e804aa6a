"""Recipes that are tried: those around a given one, and which of them comes next."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from secateur.errors import ConfigError
from secateur.recipe import Recipe
from secateur.schema import Record, derive_seed

NEEDS = "recovery.trials needs the extra: pip install 'secateur[recover]'"
# The recipe as given and so many drawn at random come before those that are chosen by what is known.
RANDOM = 3
# What is tried around the recipe as given, as its multiples.
RANKS = (0.25, 0.5, 1.0, 2.0, 4.0)
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)
BATCHES = (0.25, 0.5, 1.0, 2.0)
RATES = (0.1, 10.0)
WARMUPS, DROPOUTS = (0.0, 0.2), (0.0, 0.2)

Values = dict[str, float | int | str]


class Attempt(Record):
    """A recipe that was tried, and what became of it."""

    number: int = Field(description="0 is the recipe as given")
    recipe: Recipe = Field(description="that gives the same recovery by itself")
    values: Values = Field(description="as the sampler knows the recipe: places in lists of choices, or plain values")
    learning_rate: float = Field(description="at its peak")
    rung_loss: float | None = Field(description="on the selection set, at its rung; null where it came to nothing")
    end_loss: float | None = Field(description="on the selection set, at the end; null where it was not trained to it")
    failure: str | None = Field(description="why it came to nothing")
    tokens: int = Field(description="that were trained on, rung and end")
    planned_tokens: int = Field(description="that training it to the end takes")
    seconds: float


@dataclass(frozen=True)
class Choices:
    """The recipes around a given one.

    Attributes:
        rate: Of the given recipe, at its peak.
        parts: Of the model that have projections, for what adapts them.
        most_windows: Per step; with more, a rung has too few steps to say anything.
    """

    given: Recipe
    rate: float
    parts: tuple[str, ...]
    most_windows: int

    @property
    def adapts(self) -> bool:
        return self.given.method != "full"

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(sorted({max(1, round(self.given.rank * factor)) for factor in RANKS}))

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(self.given.alpha / self.given.rank * factor for factor in RATIOS)

    @property
    def batches(self) -> tuple[int, ...]:
        """Windows per step; each divides all that are larger, so that equal tokens are whole steps of every one."""
        own = self.given.batch_windows
        found = {own}
        for factor in BATCHES:
            if (own * factor).is_integer() and 1 <= own * factor <= self.most_windows:
                found.add(round(own * factor))
        return tuple(sorted(found))

    def first(self) -> Values:
        """Give the values of the recipe as given."""
        given = self.given
        values: Values = {
            "learning_rate": self.rate,
            "warmup_ratio": given.warmup_ratio,
            "batch": self.batches.index(given.batch_windows),
        }
        if self.adapts:
            values |= {"rank": self.ranks.index(given.rank), "ratio": RATIOS.index(1.0), "dropout": given.dropout}
            values |= {"modules": given.modules}
        return values

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """Give the recipe of some values; it asks for no attempts itself."""
        changed: dict[str, Any] = {
            "trials": 0,
            "learning_rate": values["learning_rate"],
            "warmup_ratio": values["warmup_ratio"],
            "batch_windows": self.batches[values["batch"]],
        }
        if self.adapts:
            rank = self.ranks[values["rank"]]
            changed |= {"rank": rank, "alpha": max(1, round(self.ratios[values["ratio"]] * rank))}
            changed |= {"dropout": values["dropout"], "modules": values["modules"]}
        return self.given.model_copy(update=changed)


def proposed(choices: Choices, attempts: Sequence[Attempt], seed: int) -> Values:
    """Give the values of the next attempt, which depend on those before it and on the seed, and on nothing else.

    The first is the recipe as given, `RANDOM` are drawn, and then a tree-structured Parzen estimator (optuna's) draws
    what is likelier among the better attempts than among the others. One that came to nothing is among the others.

    Raises:
        ConfigError: optuna is not installed.
    """
    try:
        import optuna  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ConfigError(NEEDS) from error
    if not attempts:
        return choices.first()
    distributions = _distributions(choices, optuna.distributions)
    states = optuna.trial.TrialState
    told = [
        optuna.trial.create_trial(
            state=states.PRUNED if each.rung_loss is None else states.COMPLETE,
            value=each.rung_loss,
            params=dict(each.values),
            distributions=distributions,
        )
        for each in attempts
    ]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Older versions call estimating all values together an experiment.
            warnings.simplefilter("ignore")
            # A sampler of its own for every attempt: what it draws does not depend on what another drew before.
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=1 + RANDOM, multivariate=True, seed=derive_seed(seed, "attempt", len(attempts))
            )
        study = optuna.create_study(sampler=sampler)
        study.add_trials(told)
        drawn: Values = dict(study.ask(fixed_distributions=distributions).params)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return drawn


def _distributions(choices: Choices, kinds: Any) -> dict[str, Any]:
    """Give what optuna draws from. The recipe as given is always inside."""
    given, rate = choices.given, choices.rate
    found = {
        "learning_rate": kinds.FloatDistribution(rate * RATES[0], rate * RATES[1], log=True),
        "warmup_ratio": kinds.FloatDistribution(WARMUPS[0], max(WARMUPS[1], given.warmup_ratio)),
        "batch": kinds.IntDistribution(0, len(choices.batches) - 1),
    }
    if choices.adapts:
        found |= {
            "rank": kinds.IntDistribution(0, len(choices.ranks) - 1),
            "ratio": kinds.IntDistribution(0, len(RATIOS) - 1),
            "dropout": kinds.FloatDistribution(DROPOUTS[0], max(DROPOUTS[1], given.dropout)),
            "modules": kinds.CategoricalDistribution(choices.parts),
        }
    return found


def common_windows(choices: Choices, windows: float) -> int:
    """Give the most windows, up to a number of them, that are whole steps of every batch that is tried."""
    largest = choices.batches[-1]
    return math.floor(windows / largest) * largest
