"""The training loop: steps that can be interrupted, judged on the selection set, and taken back where they go wrong."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from secateur.errors import RunFolderError
from secateur.recovery.judging import RevisingJudge
from secateur.recovery.objective import Objective
from secateur.recovery.passes import Alone, Passes, Step
from secateur.recovery.schedule import rate_factor
from secateur.recovery.text import Batch, RecoverySet
from secateur.recovery.trainee import Trainee, set_values, values_of
from secateur.recovery.weighting import Weighting
from secateur.runs.shelf import Shelf
from secateur.schema import Record, canonical_json, derive_seed, digest

# Seconds between two times that the state is put aside; at every judgement it is, too.
SAVED_EVERY = 60.0
# A selection loss so far above the first, in nats per token, is no recovery any more.
DIVERGED = 0.5
MOST_ROLLBACKS = 3
# Where no step made it better, training begins again at so much of the rate: what helps where much is lost is too fast
# where little is.
RESTART_SCALE = 0.25


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        micro_windows: Windows that go through the model together; a step may take several passes.
        judgements: Times that the selection set is asked, evenly over the steps.
        patience: Judgements in a row without a better one after which the training ends.
        restarts: Times that it begins again, slower, where it ended without a better one than the first.
    """

    steps: int
    learning_rate: float
    micro_windows: int
    schedule: str = "linear"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    gradient_norm: float = 1.0
    judgements: int = 10
    patience: int = 3
    restarts: int = 2
    seed: int = 0

    def is_judged(self, step: int) -> bool:
        """Say whether the selection set is asked once so many steps are done."""
        count = min(self.judgements, self.steps)
        return step == self.steps or (step * count) // self.steps > ((step - 1) * count) // self.steps


class Judgement(Record):
    """What the selection set said after some steps."""

    step: int
    loss: float = Field(
        description="on the selection set, nats per token; what is worst there where groups are weighed"
    )


class TrainingRecord(Record):
    """What a training has come to."""

    steps: int = Field(description="that were taken")
    planned: int = Field(description="steps")
    tokens: int = Field(description="that were trained on, repeats included")
    losses: tuple[float, ...] = Field(description="cross-entropy of each step's batch, nats per token")
    judgements: tuple[Judgement, ...] = Field(description="on the selection set; the first is before any step")
    best_step: int = Field(description="whose weights were kept; 0 where no step made it better")
    rollbacks: tuple[int, ...] = Field(description="steps at which something was not finite or far off")
    restarts: tuple[int, ...] = Field(
        (), description="steps after which it began again at a quarter of the rate, since none had made it better"
    )
    rate_scale: float = Field(
        description="what learning rates were multiplied by in the end: half per rollback, a quarter per restart"
    )
    seconds: float

    @property
    def best(self) -> Judgement:
        return next(each for each in self.judgements if each.step == self.best_step)


@runtime_checkable
class Advance(Protocol):
    """Is told the loss of every step."""

    def __call__(self, value: float | None = None) -> None: ...


def unheard(value: float | None = None) -> None:
    """Tell nobody."""


@dataclass
class _Progress:
    """Where a training is, and of which plan and text."""

    of: str
    step: int
    tokens: int
    losses: list[float]
    judgements: list[Judgement]
    rollbacks: list[int]
    restarts: list[int]
    rate_scale: float
    seconds: float

    @property
    def best(self) -> Judgement:
        return min(self.judgements, key=lambda each: each.loss)

    def recorded(self, planned: int) -> TrainingRecord:
        return TrainingRecord(
            steps=self.step,
            planned=planned,
            tokens=self.tokens,
            losses=tuple(self.losses),
            judgements=tuple(self.judgements),
            best_step=self.best.step,
            rollbacks=tuple(self.rollbacks),
            restarts=tuple(self.restarts),
            rate_scale=self.rate_scale,
            seconds=self.seconds,
        )


class Training:
    """A recovery at work. Its state lies on a shelf, from which a training that was interrupted goes on alike."""

    def __init__(
        self,
        trainee: Trainee,
        recovery_set: RecoverySet,
        objective: Objective,
        weighting: Weighting,
        judge: Callable[[], float],
        plan: Plan,
        shelf: Shelf | None = None,
        passes: Passes | None = None,
    ) -> None:
        """Begin, or take up what the shelf holds.

        Args:
            judge: Gives the selection loss of the trainee as it stands, nats per token; may be a `RevisingJudge`.
            shelf: In memory if not given.
            passes: This process alone if not given.

        Raises:
            RunFolderError: The shelf holds a training with another plan, or on other text.
        """
        self._trainee, self._set, self._objective, self._weighting = trainee, recovery_set, objective, weighting
        self._judge, self._plan, self._shelf = judge, plan, shelf or Shelf()
        self._passes = passes or Alone(plan.micro_windows)
        self._parameters = dict(trainee.parameters)
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()), lr=plan.learning_rate, betas=(0.9, 0.999), weight_decay=plan.weight_decay
        )
        # How many windows go through the model together changes nothing but rounding; and a training that is over may
        # still begin again.
        told = asdict(plan) | {"micro_windows": 0, "restarts": 0, "text": recovery_set.fingerprint}
        self._progress = _Progress(digest(told), 0, 0, [], [], [], [], 1.0, 0.0)
        if "state" in self._shelf:
            self._restore()

    def run(self, advance: Advance = unheard) -> TrainingRecord:
        """Train to the end, and leave the trainee at its best judgement."""
        progress, saved = self._progress, time.perf_counter()
        if not progress.judgements:
            progress.judgements.append(Judgement(step=0, loss=self._judge()))
            self._keep()
            self._save("begun")
            self._save()
        for loss in progress.losses:
            advance(loss)
        while not self._ended() or self._in_vain():
            if self._ended():
                self._begin_again()
            start = time.perf_counter()
            fine = self._step()
            progress = self._progress
            if fine and self._plan.is_judged(progress.step):
                fine = self._judged()
            progress.seconds += time.perf_counter() - start
            if not fine:
                self._roll_back()
                continue
            advance(progress.losses[-1])
            if progress.judgements[-1].step == progress.step or time.perf_counter() - saved > SAVED_EVERY:
                self._save()
                saved = time.perf_counter()
        set_values(self._parameters, self._shelf.take(self._kept_as(self._progress.best.step)))
        return self._progress.recorded(self._plan.steps)

    def _ended(self) -> bool:
        progress, plan = self._progress, self._plan
        since = [each for each in progress.judgements if each.step > progress.best.step]
        given_up = len(progress.rollbacks) >= MOST_ROLLBACKS
        return progress.step >= plan.steps or len(since) >= plan.patience or given_up

    def _in_vain(self) -> bool:
        """Say whether it ended without a better judgement than the first, and may begin again."""
        progress = self._progress
        again = len(progress.restarts) < self._plan.restarts and len(progress.judgements) > 1
        # A judge that revises its answers has seen the states that would be gone.
        return again and progress.best.step == 0 and not isinstance(self._judge, RevisingJudge)

    def _begin_again(self) -> None:
        """Go back to the beginning, at a fraction of the learning rate."""
        ended = self._progress
        self._restore("begun")
        progress = self._progress
        progress.restarts, progress.rollbacks = [*ended.restarts, ended.step], ended.rollbacks
        progress.rate_scale, progress.tokens = ended.rate_scale * RESTART_SCALE, ended.tokens
        progress.seconds = ended.seconds
        self._save()

    def _step(self) -> bool:
        """Take a step; say whether everything stayed finite."""
        progress, plan = self._progress, self._plan
        step = progress.step
        batch = self._set.batch(self._weighting.places(step))
        model = self._trainee.at(step)
        rate = plan.learning_rate * progress.rate_scale
        rate *= rate_factor(plan.schedule, step, plan.steps, plan.warmup_ratio)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        seed = derive_seed(plan.seed, "recovery step", step)
        whole = self._passes.run(Step(model, self._objective, self._parameters, batch, self._weighting.weights, seed))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), plan.gradient_norm)
        loss = batch_mean(whole.cross_entropy, batch)
        if not (math.isfinite(loss) and bool(torch.isfinite(norm))):
            return False
        self._optimizer.step()
        self._weighting.learn(step, batch, whole)
        progress.step += 1
        progress.tokens += batch.tokens.numel()
        progress.losses.append(loss)
        return True

    def _judged(self) -> bool:
        """Ask the selection set; say whether the answer is that of a model that recovers."""
        progress = self._progress
        loss = self._judge()
        if not math.isfinite(loss) or loss > progress.judgements[0].loss + DIVERGED:
            return False
        progress.judgements.append(Judgement(step=progress.step, loss=loss))
        if isinstance(self._judge, RevisingJudge):
            steps = [each.step for each in progress.judgements]
            revised = zip(steps, self._judge.revised(), strict=True)
            progress.judgements = [Judgement(step=step, loss=now) for step, now in revised]
        self._keep()
        return True

    def _keep(self) -> None:
        """Put aside the weights that were just judged, if they are the best, or may yet turn out to be."""
        step = self._progress.step
        if isinstance(self._judge, RevisingJudge) or self._progress.best.step == step:
            self._shelf.put(self._kept_as(step), values_of(self._parameters))

    def _kept_as(self, step: int) -> str:
        return f"judged-{step}" if isinstance(self._judge, RevisingJudge) else "best"

    def _roll_back(self) -> None:
        """Go back to the last state that was put aside, at half the learning rate."""
        failed, scale, seconds = self._progress.step, self._progress.rate_scale, self._progress.seconds
        rollbacks = [*self._progress.rollbacks, failed]
        self._restore()
        self._progress.rollbacks, self._progress.rate_scale = rollbacks, scale / 2
        self._progress.seconds = seconds
        self._save()

    def _save(self, kept_as: str = "state") -> None:
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            state[f"parameter {name}"] = parameter.detach().clone()
            for entry, value in self._optimizer.state.get(parameter, {}).items():
                state[f"{entry} {name}"] = value.detach().clone()
        state |= {f"weighting {name}": tensor.clone() for name, tensor in self._weighting.state().items()}
        if isinstance(self._judge, RevisingJudge):
            state |= {f"judge {name}": tensor.clone() for name, tensor in self._judge.state().items()}
        progress = self._progress
        kept = vars(progress) | {"judgements": [each.model_dump() for each in progress.judgements]}
        state["progress"] = torch.frombuffer(bytearray(canonical_json(kept).encode()), dtype=torch.uint8)
        self._shelf.put(kept_as, state)

    def _restore(self, kept_as: str = "state") -> None:
        state = self._shelf.take(kept_as)
        kept = json.loads(bytes(state["progress"].tolist()))
        kept["judgements"] = [Judgement.model_validate(each) for each in kept["judgements"]]
        if kept["of"] != self._progress.of:
            raise RunFolderError(
                "the folder holds a recovery with another recipe or on other text; give another folder, or ask for the "
                "same again"
            )
        self._progress = _Progress(**kept)
        set_values(self._parameters, {name: state[f"parameter {name}"] for name in self._parameters})
        self._optimizer.state.clear()
        for name, parameter in self._parameters.items():
            entries = ("step", "exp_avg", "exp_avg_sq")
            own = {entry: state[f"{entry} {name}"].clone() for entry in entries if f"{entry} {name}" in state}
            if own:
                moved = {
                    entry: value if entry == "step" else value.to(parameter.device) for entry, value in own.items()
                }
                self._optimizer.state[parameter] = moved
        self._weighting.restore(_of("weighting ", state))
        if isinstance(self._judge, RevisingJudge):
            self._judge.restore(_of("judge ", state))


def _of(owner: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(owner): each for name, each in state.items() if name.startswith(owner)}


def batch_mean(losses: Tensor, batch: Batch) -> float:
    """Average losses of windows over all that counts in them."""
    counts = batch.num_counted.double()
    return float((losses.double().cpu() * counts).sum() / counts.sum())
