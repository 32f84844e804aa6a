"""What a run says while it works. The library emits events; only the command line draws them."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

KL, LOSS = "KL", "loss"


@dataclass(frozen=True)
class StageStarted:
    """A stage of the main flow begins. `total` counts its steps where they are known."""

    stage: str
    total: int | None = None


@dataclass(frozen=True)
class StageAdvanced:
    """One step of a stage is done. `value` is what the step gave, `lowest` the least of the stage so far.

    `seconds` is what the step took by itself where steps are made in groups, 0 where it came from the run folder.
    `metric` says what the values are: `KL` to the dense model on the selection set, or the `loss` of a step's text, of
    which no lowest is told; both in nats per token.
    """

    stage: str
    done: int
    value: float | None = None
    lowest: float | None = None
    seconds: float | None = None
    metric: str = KL


@dataclass(frozen=True)
class StageEnded:
    """A stage is done. `reused` says that its outcome came from the run folder."""

    stage: str
    seconds: float
    note: str = ""
    reused: bool = False


@dataclass(frozen=True)
class PredictorFitted:
    """The predictor was fitted anew: which one, how well it ranks unseen pairs at the budget, and how many it knows."""

    stage: str
    predictor: str
    kendall_tau: float
    num_pairs: int
    trusted: bool


@dataclass(frozen=True)
class Part:
    """Steps of one kind, which take as long each; of 0 steps where it is work between steps.

    `seconds` are those of all its steps, as expected.
    """

    kind: str
    seconds: float
    steps: int = 0


@dataclass(frozen=True)
class StageWork:
    """What a stage will do, in order."""

    stage: str
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True)
class WorkExpected:
    """What the stages to come will do, and how long it should take on this machine."""

    stages: tuple[StageWork, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


@dataclass(frozen=True)
class RunFinished:
    """A run has a report: its configuration, `section.field` -> text, and the figures of its rows by name."""

    parameters: Mapping[str, str]
    figures: Mapping[str, float]


Event = StageStarted | StageAdvanced | StageEnded | PredictorFitted | WorkExpected | RunFinished
Listener = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Ignore every event."""


def heard_by(*listeners: Listener) -> Listener:
    """Give a listener that tells several, in order."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen


class StageClock:
    """Handle of a running stage: `advance` after each step, `note` for the line that closes it."""

    def __init__(self, stage: str, listener: Listener, metric: str = KL) -> None:
        self.stage = stage
        self.note = ""
        self.reused = False
        self.done = 0
        self.seconds = 0.0
        self._lowest: float | None = None
        self._metric = metric
        self._listener = listener

    def advance(self, value: float | None = None, seconds: float | None = None) -> None:
        self.done += 1
        if value is not None and self._metric == KL:
            self._lowest = value if self._lowest is None else min(value, self._lowest)
        self._listener(StageAdvanced(self.stage, self.done, value, self._lowest, seconds, self._metric))


@contextlib.contextmanager
def stage_clock(stage: str, listener: Listener, total: int | None = None, metric: str = KL) -> Iterator[StageClock]:
    """Emit the events of one stage and time it; nothing ends where an exception passes."""
    clock = StageClock(stage, listener, metric)
    listener(StageStarted(stage, total))
    start = time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - start
    listener(StageEnded(stage, clock.seconds, clock.note, clock.reused))
