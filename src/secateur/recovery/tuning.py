"""Tuning: many recipes are trained a little, the best of them to the end, and the best at the end is the recovery."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field
from scipy.stats import spearmanr

from secateur.errors import ConfigError, RunFolderError
from secateur.recipe import SHARE_OF_TOKENS, Recipe
from secateur.recovery.attempts import Attempt, Choices, Values, common_windows, proposed
from secateur.recovery.training import Advance, TrainingRecord, unheard
from secateur.runs.folder import remove, written_whole
from secateur.runs.records import read_record
from secateur.runs.shelf import Shelf
from secateur.schema import Record

# Steps of a rung at least; batches that leave it fewer are not tried.
LEAST_STEPS = 4
# Times that the selection set is asked up to a rung: a divergence is noticed half-way.
RUNG_JUDGEMENTS = 2


class TuningRecord(Record):
    """What trying recipes has come to."""

    attempts: tuple[Attempt, ...]
    rung_tokens: int = Field(description="of each attempt at its rung, whatever its batch size")
    chosen: int = Field(description="number of the attempt that became the recovery")
    spearman: float | None = Field(
        description="rank correlation of rung and end, over attempts that have both; null for fewer than three"
    )
    tokens: int = Field(description="that were trained on, of all attempts")
    tokens_of_all: int = Field(description="that training every attempt to the end would have taken; at least twice")

    @property
    def default(self) -> Attempt:
        """The recipe as given."""
        return self.attempts[0]


@runtime_checkable
class Train(Protocol):
    """Trains a recipe from the pruned model, and leaves the model as it was."""

    def __call__(self, recipe: Recipe, shelf: Shelf, advance: Advance, rung: tuple[int, int] | None) -> TrainingRecord:
        """Train to the end, or a short training of its own for a rung: so many steps and judgements."""
        ...


@dataclass
class Tuning:
    """Attempts around a recipe, which is the first of them. They lie in a folder, and one that was interrupted goes on.

    Attributes:
        windows: Of the recovery set.
        window_tokens: Of each of them.
        folder: In memory if not given.
    """

    choices: Choices
    windows: int
    window_tokens: int
    train: Train
    seed: int
    folder: Path | None = None
    _shelves: dict[str, Shelf] = field(default_factory=dict)

    @property
    def rung_windows(self) -> int:
        return common_windows(self.choices, self.choices.given.rung * self.choices.given.epochs * self.windows)

    def run(self, advance: Advance = unheard) -> tuple[Attempt, Shelf, TuningRecord]:
        """Try recipes; give the best at the end on the selection set, with the shelf of its finished training.

        Args:
            advance: Told something for every batch of the given recipe's size, whatever the sizes that are tried.

        Raises:
            ConfigError: The recovery set is too small for a rung, or optuna is not installed.
            RunFolderError: The folder holds attempts around another recipe.
        """
        attempts = self._judged_early(advance)
        for number in finalists(attempts, self.choices.given, self.rung_windows * self.window_tokens):
            attempts[number] = self._finished(attempts[number], advance)
            # Of trainings that are over, only the best is wanted: it may be large.
            leader = best_of(attempts)
            for other in attempts:
                if other.end_loss is not None and other.number != leader.number:
                    self._drop(f"{other.number:03d}-end")
        chosen = best_of(attempts)
        record = TuningRecord(
            attempts=tuple(attempts),
            rung_tokens=self.rung_windows * self.window_tokens,
            chosen=chosen.number,
            spearman=rung_against_end(attempts),
            tokens=sum(each.tokens for each in attempts),
            tokens_of_all=sum(each.planned_tokens for each in attempts),
        )
        return chosen, self._shelf(f"{chosen.number:03d}-end"), record

    def _judged_early(self, advance: Advance) -> list[Attempt]:
        given, attempts = self.choices.given, list[Attempt]()
        if not self.rung_windows:
            raise ConfigError(
                f"recovery.trials={given.trials}: {given.rung:g} of the training is less than a step of "
                f"{given.batch_windows} windows ({self.windows} windows, {given.epochs:g} epochs), too little to judge "
                "a recipe by; give more text, lower recovery.batch_windows, or set recovery.trials=0"
            )
        for number in range(given.trials):
            known = self._read(number)
            if known is None:
                values = proposed(self.choices, attempts, self.seed)
                recipe = self.choices.recipe(values) if number else given.model_copy(update={"trials": 0})
                known = self._tried(number, recipe, values, advance)
                self._write(known)
            else:
                _skip(advance, self.rung_windows // given.batch_windows)
            self._drop(f"{number:03d}-rung")
            attempts.append(known)
        return attempts

    def _tried(self, number: int, recipe: Recipe, values: Values, advance: Advance) -> Attempt:
        """Train a recipe up to its rung. That it comes to nothing is an answer, too."""
        attempt = Attempt(
            number=number,
            recipe=recipe,
            values=values,
            learning_rate=float(values["learning_rate"]),
            rung_loss=None,
            end_loss=None,
            failure=None,
            tokens=0,
            planned_tokens=recipe.steps(self.windows) * recipe.batch_windows * self.window_tokens,
            seconds=0.0,
        )
        rung = (self.rung_windows // recipe.batch_windows, RUNG_JUDGEMENTS)
        try:
            record = self.train(recipe, self._shelf(f"{number:03d}-rung"), self._evenly(recipe, advance), rung)
        except torch.OutOfMemoryError as error:
            return attempt.model_copy(update={"failure": f"out of memory: {str(error).splitlines()[0]}"})
        told = {"tokens": record.tokens, "seconds": record.seconds}
        if record.rollbacks:
            # What was trained on from there was another learning rate, not the recipe's.
            steps = ", ".join(map(str, record.rollbacks))
            return attempt.model_copy(update=told | {"failure": f"diverged at steps {steps} of {rung[0]}"})
        # What it came to by training, even where that is worse than the pruned model: recipes are told apart by it.
        return attempt.model_copy(update=told | {"rung_loss": min(each.loss for each in record.judgements[1:])})

    def _finished(self, attempt: Attempt, advance: Advance) -> Attempt:
        """Train an attempt to the end, from the pruned model."""
        recipe = attempt.recipe
        if attempt.end_loss is not None:
            _skip(advance, self.choices.given.steps(self.windows))
            return attempt
        record = self.train(recipe, self._shelf(f"{attempt.number:03d}-end"), self._evenly(recipe, advance), None)
        known = attempt.model_copy(
            update={
                "end_loss": record.best.loss,
                "tokens": attempt.tokens + record.tokens,
                "seconds": attempt.seconds + record.seconds,
            }
        )
        self._write(known)
        return known

    def _evenly(self, recipe: Recipe, advance: Advance) -> Advance:
        """Make steps of one batch size count as steps of the given recipe's."""
        per_step, windows = self.choices.given.batch_windows, 0

        def told(value: float | None = None) -> None:
            nonlocal windows
            windows += recipe.batch_windows
            while windows >= per_step:
                windows -= per_step
                advance(value)

        return told

    def _read(self, number: int) -> Attempt | None:
        if self.folder is None or not self._path(number).is_file():
            return None
        attempt = read_record(self._path(number), Attempt)
        if number == 0 and attempt.recipe != self.choices.given.model_copy(update={"trials": 0}):
            raise RunFolderError(
                f"{self.folder} holds attempts around another recipe; go on with that recipe, or use another folder"
            )
        return attempt

    def _write(self, attempt: Attempt) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._path(attempt.number)) as path:
                path.write_text(attempt.model_dump_json(indent=1) + "\n")

    def _path(self, number: int) -> Path:
        assert self.folder is not None, "only asked for where there is a folder"
        return self.folder / f"{number:03d}.json"

    def _shelf(self, name: str) -> Shelf:
        if name not in self._shelves:
            self._shelves[name] = Shelf(self.folder / name if self.folder else None)
        return self._shelves[name]

    def _drop(self, name: str) -> None:
        self._shelves.pop(name, None)
        if self.folder is not None:
            remove(self.folder / name)


def finalists(attempts: Sequence[Attempt], given: Recipe, rung_tokens: int) -> list[int]:
    """Give the numbers of attempts that go on: the recipe as given, and the best at their rungs that half the tokens
    leave room for.

    The recipe as given is one so that what is chosen is never worse on the selection set than without trying.
    """
    left = SHARE_OF_TOKENS * sum(each.planned_tokens for each in attempts) - rung_tokens * len(attempts)
    found, left = [0], left - attempts[0].planned_tokens
    ranked = [(each.rung_loss, each) for each in attempts[1:] if each.rung_loss is not None]
    for _, attempt in sorted(ranked, key=lambda pair: pair[0]):
        if len(found) < given.finalists and attempt.planned_tokens <= left:
            found.append(attempt.number)
            left -= attempt.planned_tokens
    return found


def best_of(attempts: Sequence[Attempt]) -> Attempt:
    """Give the attempt that did best at the end; the first of equals."""
    finished = [(each.end_loss, each) for each in attempts if each.end_loss is not None]
    return min(finished, key=lambda pair: pair[0])[1]


def rung_against_end(attempts: Sequence[Attempt]) -> float | None:
    """Give Spearman's rank correlation of losses at the rung and at the end; None where it has no meaning."""
    pairs = [(each.rung_loss, each.end_loss) for each in attempts]
    both = [(rung, end) for rung, end in pairs if rung is not None and end is not None]
    if len(both) < 3 or min(len(set(losses)) for losses in zip(*both, strict=True)) < 2:
        return None
    return float(spearmanr(*zip(*both, strict=True)).statistic)


def choices_around(given: Recipe, rate: float, parts: tuple[str, ...], windows: int) -> Choices:
    """Give the recipes that are tried on a recovery set of so many windows."""
    most = int(given.rung * given.epochs * windows / LEAST_STEPS)
    choices = Choices(given, rate, parts, most)
    return choices if given.modules in parts else replace(choices, parts=(*parts, given.modules))


def _skip(advance: Advance, steps: int) -> None:
    for _ in range(steps):
        advance()
